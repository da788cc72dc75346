"""Write the network as an ONNX file: pictures or crops in, logits out. traced.py describes them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor

from preprocess.shared.files import write_atomically
from trainer.errors import UserError
from trainer.interchange import traced
from trainer.model.standalone import AlexNet

OPSET = 18  # of ONNX 1.13 (2022), which runtimes in use read, and what torch's exporter writes natively
NEEDED = ("onnx", "onnxscript")


def missing() -> list[str]:
    """The packages that writing ONNX needs and that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def write(network: AlexNet, path: Path, kind: traced.Input) -> None:
    """Write one .onnx file for any number of images; the classes are in its metadata.

    Raises UserError when packages are missing.
    """
    if missing():
        raise UserError(f"An ONNX file needs more packages: pip install {' '.join(missing())}")
    import onnx

    # The exporter prints its progress, warns about its own code, and logs that there is no torchvision.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            traced.module(network, kind),
            (traced.example(network, kind),),
            input_names=[kind],
            output_names=["logits"],
            dynamic_shapes=traced.DYNAMIC,
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


def logits(path: Path, x: Tensor) -> Tensor | None:
    """The logits that onnxruntime computes, float32 [B, K]; None when it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)
