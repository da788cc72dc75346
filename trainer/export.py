"""Write a trained network in a form that other programs open.

python -m trainer.export                        the latest run's best checkpoint, into its folder export/
python -m trainer.export RUN --to FOLDER

    alexnet.safetensors   the network of one device: parameters, mean image, settings and classes
    alexnet.py            reads it; needs torch alone
    alexnet.onnx          pictures in, logits out; where onnx and onnxscript are installed
    README.md             the model card: recipe, data, errors, versions, figures
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
import tyro

from preprocess.shared.units import size as file_size
from trainer import figures
from trainer.cli import one_sentence, parse
from trainer.config import CheckpointConfig, Config, HardwareConfig, RunConfig, to_dict
from trainer.data import augmentation
from trainer.errors import UserError
from trainer.evaluation.pretrained import MEAN, Trained, open_trained
from trainer.interchange import model_card, onnx_file
from trainer.model import standalone
from trainer.model.grouped import merge

NAME = "alexnet"
FORMAT = "two-tower-alexnet 1"
CLOSE = 1e-5  # of the largest logit: float32 sums in another order


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


def export(trained: Trained, folder: Path, onnx: bool = True) -> list[str]:
    """Write everything; returns a line about each file.

    Raises UserError when what was written does not compute what the towers do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, module = folder / f"{NAME}.safetensors", folder / f"{NAME}.py"
    write_weights(trained, weights)
    shutil.copyfile(standalone.__file__, module)
    size = trained.image_size
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    network = standalone.AlexNet.load(weights)
    (center,) = augmentation.center_crop(size)
    expected = trained.logits(trained.inputs(noise, center)).cpu()
    found = network(network.inputs(torch.from_numpy(noise)))
    difference = float((found - expected).abs().max() / expected.abs().max())
    said = [
        f"{weights}: {file_size(weights.stat().st_size)}",
        f"{module}: its logits differ from the towers' by {difference:.1e} of the largest",
    ]
    _refuse(module, difference)
    if onnx and onnx_file.missing():
        said.append(f"no ONNX file: pip install {' '.join(onnx_file.missing())}")
    elif onnx:
        path = folder / f"{NAME}.onnx"
        onnx_file.write(network, path)
        checked = onnx_file.largest_difference(network, path, torch.from_numpy(noise))
        how = "not compared, for onnxruntime is not installed"
        if checked is not None:
            how = f"onnxruntime's logits differ by {checked:.1e} of the largest"
            _refuse(path, checked)
        said.append(f"{path}: {how}")
    pictures = _copy_figures(trained.run, folder)
    (folder / "README.md").write_text(model_card.write(trained, pictures, (folder / f"{NAME}.onnx").exists()))
    return [*said, f"{folder / 'README.md'}: the model card"]


def write_weights(trained: Trained, path: Path) -> None:
    """One safetensors file: the merged parameters and the mean image, float32, and in its header, as JSON
    under `about`, the settings, the classes and the checkpoint's state."""
    tensors = merge([dict(tower.state_dict()) for tower in trained.towers])
    tensors[MEAN] = torch.from_numpy(trained.mean_SS3)
    about: dict[str, Any] = {
        "format": FORMAT,
        "config": to_dict(without_places(trained.config)),
        "classes": trained.classes,
        "class_names": trained.class_names,
        "image_size": trained.image_size,
        "fingerprint": trained.fingerprint,
        "state": {k: v for k, v in trained.state.items() if k in ("step", "epoch", "seed", "versions")},
    }
    ready = {name: tensor.cpu().float().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(ready, path, {"about": json.dumps(about)})
    path.chmod(0o644)  # it comes out for its owner alone


def without_places(config: Config) -> Config:
    """The same recipe without the folders of the machine that it ran on."""
    run, hardware = RunConfig(seed=config.run.seed), HardwareConfig(precision=config.hardware.precision)
    return dataclasses.replace(config, run=run, hardware=hardware, checkpoint=CheckpointConfig())


def _refuse(path: Path, difference: float) -> None:
    if not difference <= CLOSE:
        raise UserError(
            f"{path} does not compute what the towers do: its logits differ by {difference:.1e} of the "
            f"largest, more than {CLOSE:g}. Do not use it, and please report this."
        )


def _copy_figures(run: Path | None, folder: Path) -> list[Path]:
    """The run's figures beside the card; returns their paths relative to it."""
    found = sorted((run / figures.FOLDER).glob("*.png")) if run else []
    if found:
        (folder / figures.FOLDER).mkdir(exist_ok=True)
    return [
        Path(shutil.copyfile(path, folder / figures.FOLDER / path.name)).relative_to(folder) for path in found
    ]


def main(argv: Sequence[str] | None = None) -> None:
    with one_sentence():
        a = parse(Arguments, "python -m trainer.export", Arguments(), argv, ranks=False)
        trained = open_trained(a.run, a.checkpoint, device="cpu")
        if trained.run is None:
            raise UserError(f"{trained.source} is an exported file already; name a run or a checkpoint.")
        for line in export(trained, a.to or trained.run / "export", a.onnx):
            print(line)


if __name__ == "__main__":
    main()
