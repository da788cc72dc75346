"""Train the two towers.

    mpirun -n 8 python -m trainer.run         four pairs of towers
    mpirun -n 2 python -m trainer.run         one pair
    python -m trainer.run                     both towers in one process

Exit code 0: complete. 75: saved, and to be continued by the same command. Anything else: failed.
SIGUSR1, SIGTERM, SIGHUP or a file `stop` in the run's folder saves and ends it; a file `save` saves.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.cli import parse_config, quick_imports, refused_by_all


def main(argv: Sequence[str] | None = None) -> None:
    with refused_by_all():
        config = parse_config(argv)
    with quick_imports():
        from trainer.commands import run

    run.run(config)


if __name__ == "__main__":
    main()
