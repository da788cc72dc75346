"""Write the network as a torch.export program, which torch runs without any code of this project.

files = {"classes.json": ""}    # gets the names of the classes, in JSON
program = torch.export.load("alexnet.pt2", extra_files=files).module()
logits_BK = program(pictures_BSS3)    # or crops; see traced.py
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from preprocess.shared.files import write_atomically
from trainer.interchange import traced
from trainer.model.standalone import AlexNet


def write(network: AlexNet, path: Path, kind: traced.Input) -> None:
    """Write one .pt2 file for any number of images."""
    program = torch.export.export(
        traced.module(network, kind), (traced.example(network, kind),), dynamic_shapes=traced.DYNAMIC
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # with this machine's paths
    program.example_inputs = None  # they would be written as a pickle
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"classes.json": json.dumps(network.classes)})
    write_atomically(path, buffer.getvalue())


def logits(path: Path, x: Tensor) -> Tensor:
    """The logits that the file's program computes, float32 [B, K]."""
    with torch.no_grad():
        found: Tensor = torch.export.load(path).module()(x)
    return found
