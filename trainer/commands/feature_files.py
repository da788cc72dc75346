"""Files of features: .npz, .safetensors, and .zarr.

Each holds an array [N, ...] for each layer and the N names of the image files: as the array `files` in .npz
and .zarr, as a JSON list under `files` in the header's metadata of .safetensors.

The rows are first written into temporary files without a name, and copied at the end: so memory stays flat,
and the number of rows need not be known. The disk needs room for two copies.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from preprocess.shared.files import TEMPORARY, replacing
from trainer.errors import UserError

PIECE = 2**23
"""Bytes that are copied at a time, and of a chunk of a zarr array."""
LONGEST_HEADER = 100_000_000
"""Bytes of a header that readers of safetensors accept."""


@dataclass
class Rows:
    """The rows of one layer, one after the other in a file."""

    file: IO[bytes]
    shape: tuple[int, ...]
    """Of one row."""
    dtype: np.dtype[Any]

    @property
    def bytes_of_one(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def pieces(self) -> Iterator[bytes]:
        """All bytes from the beginning, a whole number of rows at a time."""
        self.file.seek(0)
        return iter(lambda: self.file.read(self.at_a_time * self.bytes_of_one), b"")

    @property
    def at_a_time(self) -> int:
        """Rows of a piece."""
        return max(1, PIECE // self.bytes_of_one)


class FeatureFile(contextlib.ExitStack):
    """Collects the rows of all layers batch by batch; `write` makes the file of them.

    path: its suffix is one of `FORMATS`. shapes: of one row, by layer. dtype: of the file, floating.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        super().__init__()
        self.path = Path(os.path.realpath(path))
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        self.names: list[str] = []
        """Of the image files. A byte that is no UTF-8 is written as \\xe9."""
        self.rows: dict[str, Rows] = {}
        for layer, shape in shapes.items():
            file = self.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
            self.rows[layer] = Rows(file, shape, np.dtype(dtype))

    def append(self, files: Sequence[Path], features: Mapping[str, NDArray[np.float32]]) -> None:
        """Add a row for each file to each layer. Raises UserError for numbers beyond float16."""
        self.names += [os.fsencode(path).decode(errors="backslashreplace") for path in files]
        for layer, rows in self.rows.items():
            with np.errstate(over="ignore"):
                found = features[layer].astype(rows.dtype)
            if not np.isfinite(found).all():
                raise UserError(
                    f"{layer} has outputs of {np.abs(features[layer]).max():.3g}, and float16 ends at 65504: "
                    "leave out --dtype float16."
                )
            rows.file.write(found.data)

    def write(self) -> None:
        """Write the file, atomically."""
        FORMATS[self.path.suffix.lower()](self.path, self.names, self.rows)


def write_npz(path: Path, names: list[str], layers: Mapping[str, Rows]) -> None:
    """For `numpy.load`: a zip file of .npy files, larger than 4 GiB where need be."""
    with (
        replacing(path) as handle,
        os.fdopen(handle, "wb", closefd=False) as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        with archive.open("files.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.array(names, dtype=str), allow_pickle=False)
        for layer, rows in layers.items():
            about = {"descr": rows.dtype.str, "fortran_order": False, "shape": (len(names), *rows.shape)}
            with archive.open(f"{layer}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, about)
                member.writelines(rows.pieces())


def write_safetensors(path: Path, names: list[str], layers: Mapping[str, Rows]) -> None:
    """For `safetensors`: the header's length in 8 bytes, the header in JSON, then the tensors' bytes."""
    header: dict[str, Any] = {"__metadata__": {"files": json.dumps(names, ensure_ascii=False)}}
    end = 0
    for layer, rows in layers.items():
        begin, end = end, end + len(names) * rows.bytes_of_one
        dtype, shape = f"F{8 * rows.dtype.itemsize}", [len(names), *rows.shape]
        header[layer] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise UserError(f"{path} cannot hold the names of {len(names):,} files; name a .zarr with --to.")
    with replacing(path) as handle, os.fdopen(handle, "wb", closefd=False) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for rows in layers.values():
            file.writelines(rows.pieces())


def write_zarr(path: Path, names: list[str], layers: Mapping[str, Rows]) -> None:
    """For `zarr`: a group in a folder, which must not exist yet."""
    import zarr

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        group = zarr.open_group(temporary, mode="w", zarr_format=3)
        files = group.create_array("files", shape=(len(names),), chunks=(min(len(names), 2**16),), dtype=str)
        files[:] = np.array(names, dtype=object)
        for layer, rows in layers.items():
            shape, count = (len(names), *rows.shape), min(rows.at_a_time, len(names))
            array = group.create_array(layer, shape=shape, chunks=(count, *rows.shape), dtype=rows.dtype)
            for number, piece in enumerate(rows.pieces()):
                first = number * rows.at_a_time
                found = np.frombuffer(piece, rows.dtype).reshape(-1, *rows.shape)
                array[first : first + len(found)] = found
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
        raise


FORMATS: dict[str, Callable[[Path, list[str], Mapping[str, Rows]], None]] = {
    ".npz": write_npz,
    ".safetensors": write_safetensors,
    ".zarr": write_zarr,
}
"""By the suffix of the file's name."""
