"""Write a trained network for other programs: weights, a torch module, ONNX and a model card.

alexnet.safetensors   the network of one device: parameters, mean image, settings and classes
alexnet.py            the module that reads it; needs torch alone
alexnet.onnx          images in, logits out; where onnx and onnxscript are installed
README.md             the model card: recipe, data, errors, versions, figures
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from preprocess.shared.files import write_atomically
from trainer.data import augmentation
from trainer.errors import UserError
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.interchange import model_card, onnx_file
from trainer.model import standalone
from trainer.runs import run_folder

NAME = "alexnet"
FORMAT = "two-tower-alexnet 1"
TOLERANCE = 1e-5  # of the largest logit: float32 sums in another order


def write_all(network: PretrainedNetwork, folder: Path, onnx: bool = True) -> list[str]:
    """Write all files into a folder, compare their logits with the towers'; returns a line about each file.

    Raises UserError when the logits of a file differ from those of the towers.
    """
    weights, module = folder / f"{NAME}.safetensors", folder / f"{NAME}.py"
    write_weights(network, weights)
    write_atomically(module, Path(standalone.__file__).read_bytes())
    size = network.image_size
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    written = standalone.AlexNet.load(weights)
    (center,) = augmentation.center_crop(size, network.crop_size)
    expected = network.logits(network.inputs(noise, center)).cpu()
    found = written(written.inputs(torch.from_numpy(noise)))
    difference = float((found - expected).abs().max() / expected.abs().max())
    lines = [
        f"{weights}: {weights.stat().st_size / 1e6:.1f} MB",
        f"{module}: its logits differ from the towers' by {difference:.1e} of the largest",
    ]
    _require_equal(module, difference)
    if onnx and onnx_file.missing():
        lines.append(f"no ONNX file: pip install {' '.join(onnx_file.missing())}")
    elif onnx:
        path = folder / f"{NAME}.onnx"
        onnx_file.write(written, path)
        compared = onnx_file.largest_difference(written, path, torch.from_numpy(noise))
        result = "not compared, for onnxruntime is not installed"
        if compared is not None:
            result = f"onnxruntime's logits differ by {compared:.1e} of the largest"
            _require_equal(path, compared)
        lines.append(f"{path}: {result}")
    images = _copy_figures(network.run, folder)
    card = model_card.markdown(network, images, (folder / f"{NAME}.onnx").exists())
    write_atomically(folder / "README.md", card.encode())
    return [*lines, f"{folder / 'README.md'}: the model card"]


def write_weights(network: PretrainedNetwork, path: Path) -> None:
    """Write one safetensors file: the network of one device and its mean image, float32.

    Its header has settings, classes and training state as JSON under `about`.
    """
    about = {"format": FORMAT, **network.about()}
    write_atomically(path, safetensors.torch.save(network.tensors(), {"about": json.dumps(about)}))


def _require_equal(path: Path, difference: float) -> None:
    """Raise UserError for logits that differ by more than rounding."""
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path} does not compute the same as the towers: its logits differ by {difference:.1e} of the "
            f"largest, more than {TOLERANCE:g}. Do not use it, and please report this."
        )


def _copy_figures(run: Path | None, folder: Path) -> list[Path]:
    """Copy the run's figures next to the card; returns their paths relative to it."""
    found = sorted((run / run_folder.FIGURES).glob("*.png")) if run else []
    for path in found:
        write_atomically(folder / run_folder.FIGURES / path.name, path.read_bytes())
    return [Path(run_folder.FIGURES, path.name) for path in found]
