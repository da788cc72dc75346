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

License = Literal[
    "apache-2.0",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "mit",
    "other",
    "unknown",
]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a trained network as safetensors, as a module for torch alone, as ONNX, with a model card.

    The folder is ready for Hugging Face's hub: the card has the metadata that the hub reads.

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
    pt2: bool = False
    """Write a torch.export program too, which torch runs without any code of this project."""
    input: Literal["pictures", "crops"] = "pictures"
    """What the ONNX file and the program take. pictures: uint8 [batch, 256, 256, 3]; the centre crop and the
    mean image are inside. crops: the network's own input, float32, as alexnet.py's `inputs` makes it."""
    license: License | None = None
    """The weights' license in the card's metadata, by the hub's identifier. None: the card has none."""


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
        folder = a.to or network.run / "export"
        for line in write_all(network, folder, onnx=a.onnx, pt2=a.pt2, kind=a.input, license=a.license):
            print(line)


if __name__ == "__main__":
    main()
