"""Write a trained network in formats that other programs read.

python -m trainer.export                        the latest run's best checkpoint, into its folder export/
python -m trainer.export RUN --to FOLDER

interchange/write.py lists the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from trainer.cli import one_sentence, parse, quick_imports
from trainer.errors import UserError, require_output


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a trained network as safetensors, as a module for torch alone, as ONNX, with a model card.

    Example: python -m trainer.export runs/paper-001 --to alexnet-paper
    """

    run: tyro.conf.Positional[Path | None] = None
    """A run's folder, or a checkpoint's. None: the latest run in runs/."""
    to: Path | None = None
    """Folder to write to. None: export/ in the run's folder."""
    checkpoint: Literal["best", "latest"] = "best"
    """best: by validation error. latest: the newest."""
    onnx: bool = True
    """Write the ONNX file too."""


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        a = parse(Arguments, "python -m trainer.export", Arguments(), argv, ranks=False)
        with quick_imports():
            from trainer.evaluation.pretrained import load
            from trainer.interchange.write import write_all

        if a.to:
            require_output(a.to / "README.md")
        network = load(a.run, a.checkpoint, device="cpu")
        if network.run is None:
            raise UserError(f"{network.source} is an exported file already; name a run or a checkpoint.")
        for line in write_all(network, a.to or network.run / "export", a.onnx):
            print(line)


if __name__ == "__main__":
    main()
