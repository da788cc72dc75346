"""Write a trained network for other programs: weights, a torch module, ONNX, torch.export and a model card.

alexnet.safetensors   the network of one device: parameters, mean image, settings and classes
alexnet.py            the module that reads it; needs torch alone
alexnet.onnx          images in, logits out; where onnx and onnxscript are installed
alexnet.pt2           the same as a torch.export program, when asked for
README.md             the model card: recipe, data, errors, versions, figures, and the hub's metadata
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from preprocess.shared.files import write_atomically
from trainer.data import augmentation
from trainer.errors import UserError
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.interchange import model_card, onnx_file, pt2_file, traced
from trainer.model import standalone
from trainer.runs import run_folder

NAME = "alexnet"
FORMAT = "two-tower-alexnet 1"
TOLERANCE = 1e-5  # of the largest logit: float32 sums in another order


def write_all(
    network: PretrainedNetwork,
    folder: Path,
    *,
    onnx: bool = True,
    pt2: bool = False,
    kind: traced.Input = "pictures",
    license: str | None = None,
) -> list[str]:
    """Write all files into a folder, compare their logits with the towers'; returns a line about each file.

    kind: the input of the ONNX file and of the torch.export program. license: of the weights, for the card.
    Raises UserError when the logits of a file differ from those of the towers.
    """
    weights, module = folder / f"{NAME}.safetensors", folder / f"{NAME}.py"
    write_weights(network, weights)
    write_atomically(module, Path(standalone.__file__).read_bytes())
    size = network.image_size
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    noise_BSS3 = torch.from_numpy(noise)
    written = standalone.AlexNet.load(weights)
    (center,) = augmentation.center_crop(size, network.crop_size)
    expected = network.logits(network.inputs(noise, center)).cpu()
    lines = [
        f"{weights}: {weights.stat().st_size / 1e6:.1f} MB",
        _compared(module, "its", written(written.inputs(noise_BSS3)), expected),
    ]
    x = traced.given(written, kind, noise_BSS3)
    forms = []
    if onnx and onnx_file.missing():
        lines.append(f"no ONNX file: pip install {' '.join(onnx_file.missing())}")
    elif onnx:
        forms.append(path := folder / f"{NAME}.onnx")
        onnx_file.write(written, path, kind)
        lines.append(_compared(path, "onnxruntime's", onnx_file.logits(path, x), expected))
    if pt2:
        forms.append(path := folder / f"{NAME}.pt2")
        pt2_file.write(written, path, kind)
        lines.append(_compared(path, "its", pt2_file.logits(path, x), expected))
    images = _copy_figures(network.run, folder)
    card = model_card.markdown(network, images, [path.name for path in forms], kind, license)
    write_atomically(folder / "README.md", card.encode())
    return [*lines, f"{folder / 'README.md'}: the model card"]


def write_weights(network: PretrainedNetwork, path: Path) -> None:
    """Write one safetensors file: the network of one device and its mean image, float32.

    Its header has settings, classes and training state as JSON under `about`.
    """
    about = {"format": FORMAT, **network.about()}
    write_atomically(path, safetensors.torch.save(network.tensors(), {"about": json.dumps(about)}))


def _compared(path: Path, whose: str, found: Tensor | None, expected: Tensor) -> str:
    """A line about a file's logits. Raises UserError for those that differ by more than rounding."""
    if found is None:
        return f"{path}: not compared, for onnxruntime is not installed"
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path} does not compute the same as the towers: its logits differ by {difference:.1e} of the "
            f"largest, more than {TOLERANCE:g}. Do not use it, and please report this."
        )
    return f"{path}: {whose} logits differ from the towers' by {difference:.1e} of the largest"


def _copy_figures(run: Path | None, folder: Path) -> list[Path]:
    """Copy the run's figures next to the card; returns their paths relative to it."""
    found = sorted((run / run_folder.FIGURES).glob("*.png")) if run else []
    for path in found:
        write_atomically(folder / run_folder.FIGURES / path.name, path.read_bytes())
    return [Path(run_folder.FIGURES, path.name) for path in found]
