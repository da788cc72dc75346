"""Show the progress of runs on a web page that updates itself.

    python -m trainer.watch                          the latest run
    python -m trainer.watch runs/paper-001 runs/b    several, side by side

It only reads the runs' files and locks none of them. The runs may be on another host, in a shared folder. The
page can be opened on this machine alone; from another one, first: ssh -L 8700:127.0.0.1:8700 HOST.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from preprocess.shared.ranges import Range
from trainer.cli import one_sentence, parse, quick_imports
from trainer.config import Ranged


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """A page with the progress of runs, at http://127.0.0.1:8700. Ctrl-C ends the page, not the runs.

    Example: python -m trainer.watch runs/auto-001 runs/paper-001
    """

    run: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders of runs, side by side. None: the latest in runs/."""
    port: Annotated[int, Range("[0, 65535]")] = 8700
    """Port on 127.0.0.1; 0 takes any free one."""


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        arguments = parse(Arguments, "python -m trainer.watch", Arguments(), argv, ranks=False)
        with quick_imports():
            from trainer.commands import watch

        watch.run(arguments)


if __name__ == "__main__":
    main()
