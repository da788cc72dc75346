"""Recognise files of weights of other programs by their content, and name the command that converts the rest.

Nothing is unpickled here: a pickle can run any code. Users who trust a file convert it themselves, with the
command that `remedy` returns.
"""

from __future__ import annotations

import shlex
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from trainer.interchange import caffemodel, onnx_graph, wire

Kind = Literal["safetensors", "npz", "caffemodel", "onnx", "torch", "pickle", "npy", "mean", "lfs", "unknown"]
PROTOBUF = (".caffemodel", ".onnx", ".binaryproto", ".pb")

DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RuntimeError),
    *(OSError, EOFError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What reading a damaged .npz or .npy raises: NumPy reads its header as Python. RuntimeError: it is
encrypted, or compressed by an unknown method."""

READABLE = "a .caffemodel, an .onnx, a safetensors file, or an .npz of plain arrays"

NPY = b"\x93NUMPY"
LFS = b"version https://git-lfs"
LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save up to version 1.5

FROM_TORCH = (
    "import sys, torch; from safetensors.torch import save_file; "
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
    "save_file({k: v.clone().contiguous() for k, v in d.items()}, sys.argv[2])"
)

# From TensorFlow's axes [height, width, inputs, outputs] to Caffe's [outputs, inputs, height, width].
# fc6 reads 6 x 6 pixels of all channels: channels last in TensorFlow, channels first in Caffe.
FROM_NPY = (
    "import sys, numpy as np; "
    "d = np.load(sys.argv[1], allow_pickle=True, encoding='latin1').item(); "
    "w = {k: v[0].T if k in ('fc7', 'fc8') else "
    "(v[0].reshape(6, 6, -1, len(v[1])) if k == 'fc6' else v[0]).transpose(3, 2, 0, 1) "
    "for k, v in d.items()}; "
    "w = {k: x.reshape(len(x), -1) if k == 'fc6' else x for k, x in w.items()}; "
    "np.savez(sys.argv[2], **{k + '.weight': x for k, x in w.items()}, **{k + '.bias': d[k][1] for k in d})"
)


def kind_of(path: Path) -> Kind:
    """Recognise a file by its content, not by its name.

    Raises zipfile.BadZipFile for a damaged zip, WireError for a damaged file with a name of protobuf's.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if head.startswith(NPY):
        return "npy"
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
        return "npz" if all(name.endswith(".npy") for name in names) else "unknown"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        named = path.suffix.lower() in (".pth", ".pt", ".bin", ".ckpt")
        return "torch" if named or head[2:].startswith(LEGACY_TORCH) else "pickle"
    return "lfs" if head == LFS[:16] else _kind_of_message(path)


def _kind_of_message(path: Path) -> Kind:
    """Recognise a message of protobuf by its fields. Raises WireError."""
    try:
        message = wire.open_file(path)
    except wire.WireError:
        if path.suffix.lower() in PROTOBUF:
            raise
        return "unknown"
    kinds: dict[Kind, Callable[[wire.Message], bool]] = {
        "onnx": onnx_graph.is_model,
        "caffemodel": caffemodel.is_net,
        "mean": caffemodel.is_blob,
    }
    return next((kind for kind, fits in kinds.items() if fits(message)), "unknown")


def remedy(path: Path, kind: Kind) -> str:
    """The message for a file that cannot be imported: why it is not read, how to convert it."""
    unread = "and a pickle can run any code, so it is not read here"
    if kind == "torch":
        return (
            f"{path} was written by torch.save: it is a pickle, {unread}; convert it and import the result "
            "(but torchvision's alexnet is another network, which cannot be imported): "
            + _command(FROM_TORCH, path, ".safetensors")
        )
    if kind == "npy":
        shape, pickled = _header(path)
        if pickled:
            return (
                f"{path} is a pickle inside an .npy file, {unread}; if it is a dictionary of layers in "
                "TensorFlow's order, such as bvlc_alexnet.npy, and you trust it, convert it and import the "
                "result, Caffe's with --like bvlc_alexnet: " + _command(FROM_NPY, path, ".npz")
            )
        return (
            f"{path} is one array of shape {list(shape)} without a name; conv1 to fc8, each with .weight and "
            ".bias, must be in one file: numpy.savez('weights.npz', **{'conv1.weight': ..., 'conv1.bias': "
            "..., 'fc8.bias': ...})."
        )
    if kind == "pickle":
        return (
            f"{path} is a pickle, {unread}; where you trust it, load it in the program that wrote it and "
            "write its arrays with numpy.savez('weights.npz', **{'conv1.weight': ..., 'fc8.bias': ...})."
        )
    if kind == "lfs":
        return (
            f"{path} is a pointer of Git LFS, not the file itself: get the file with git lfs pull, or by its "
            "page's button to download it."
        )
    if kind == "mean":
        return f"{path} is a mean image of Caffe: import the .caffemodel, with --mean {path}."
    return (
        f"{path} is none of {READABLE}; of another program's weights write conv1 to fc8, each with .weight "
        "and .bias, with numpy.savez or safetensors."
    )


def _command(program: str, path: Path, suffix: str) -> str:
    """The shell command that converts the file by a Python program into one of another suffix next to it."""
    target = path.with_suffix(suffix)
    if target == path:
        target = path.with_name(f"{path.stem}-converted{suffix}")
    return f'python -c "{program}" {shlex.quote(str(path))} {shlex.quote(str(target))}'


def _header(path: Path) -> tuple[tuple[int, ...], bool]:
    """The shape of an .npy file's array, and whether it is pickled."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    return shape, dtype.hasobject
