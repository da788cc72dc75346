"""Write the network as an ONNX file: images in, logits out.

Its input is called `pictures`: uint8 [batch, S, S, 3], as the store has them. The centre crop, the mean image
and the divisor are inside, so that a program that reads ONNX needs no other file.
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

from preprocess.shared.files import write_atomically
from trainer.errors import UserError
from trainer.model.standalone import AlexNet

OPSET = 18  # of ONNX 1.13 (2022), which runtimes in use read, and what torch's exporter writes natively
NEEDED = ("onnx", "onnxscript")


class CenterCropNetwork(nn.Module):
    """The centre crop and the network after it."""

    def __init__(self, network: AlexNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BSS3: Tensor) -> Tensor:
        """Images uint8 [B, S, S, 3] -> logits float32 [B, K]."""
        logits_BK: Tensor = self.network(self.network.inputs(images_BSS3))
        return logits_BK


def missing() -> list[str]:
    """The packages that writing ONNX needs and that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def write(network: AlexNet, path: Path) -> None:
    """Write one .onnx file for any number of images; the classes are in its metadata.

    Raises UserError when packages are missing.
    """
    if missing():
        raise UserError(f"An ONNX file needs more packages: pip install {' '.join(missing())}")
    import onnx

    size = len(network.mean_image)
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # the exporter takes a batch of one as fixed
    # The exporter prints its progress, warns about its own code, and logs that there is no torchvision.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            CenterCropNetwork(network).eval(),
            (example,),
            input_names=["pictures"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del part.metadata_props[:]  # the exporter's stack traces, with this machine's paths
    onnx.helper.set_model_props(model, {"classes": json.dumps(network.classes)})
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())


def largest_difference(network: AlexNet, path: Path, images_BSS3: Tensor) -> float | None:
    """The largest difference between onnxruntime's logits and the network's, relative to the largest logit.

    None when onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pictures": images_BSS3.numpy()})
    with torch.no_grad():
        expected = CenterCropNetwork(network)(images_BSS3).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())
