"""The network as an ONNX file: pictures in, logits out.

It takes pictures as the store holds them, uint8 [batch, S, S, 3]; the centre crop, the mean image and the
divisor are inside, so that a program that reads ONNX needs no other file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.model.standalone import AlexNet

OPSET = 18  # of ONNX 1.13 (2022), which runtimes in use read, and what torch's exporter writes natively
NEEDED = ("onnx", "onnxscript")


class FromPictures(nn.Module):
    """The network behind the centre crop."""

    def __init__(self, network: AlexNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] -> logits float32 [B, K]."""
        logits: Tensor = self.network(self.network.inputs(pictures))
        return logits


def missing() -> list[str]:
    """The packages that writing ONNX needs and that are not here."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def write(network: AlexNet, path: Path) -> None:
    """Write one .onnx file for any number of pictures; the classes are in its metadata.

    Raises UserError where the packages are missing.
    """
    if missing():
        raise UserError(f"An ONNX file needs more packages: pip install {' '.join(missing())}")
    import onnx

    size = len(network.mean_image)
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # two: of one, the exporter takes it as fixed
    # The exporter prints its progress, warns of its own deeds, and logs that there is no torchvision.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            FromPictures(network).eval(),
            (example,),
            input_names=["pictures"],
            output_names=["logits"],
            dynamic_shapes={"pictures": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del part.metadata_props[:]  # the exporter's notes, with this machine's paths
    onnx.helper.set_model_props(model, {"classes": json.dumps(network.classes)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def largest_difference(network: AlexNet, path: Path, pictures_BSS3: Tensor) -> float | None:
    """Between onnxruntime's logits and the network's, in units of the largest; None without onnxruntime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pictures": pictures_BSS3.numpy()})
    with torch.no_grad():
        expected = FromPictures(network)(pictures_BSS3).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())
