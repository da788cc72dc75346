"""Read CIFAR-10: the binary version, or images in class folders, in a folder or a tar.

The Python version is a pickle, which can run any code when it is read; it is refused.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocess.shared.image_files import hidden_part, walk
from trainer.errors import UserError

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE  # a label, then the red, the green and the blue plane
USUAL = ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar10", "cifar10.tar")
WHERE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


def find(folder: Path = Path("data")) -> Path:
    """The path of CIFAR-10 under one of its usual names. Raises UserError when there is none."""
    for name in USUAL:
        if (folder / name).exists():
            return folder / name
    raise UserError(
        f"There is no CIFAR-10 in {folder}/; fetch {WHERE} (162 MiB) into it, or name one with --data: "
        "the binary version, or a folder or tar of train/<class>/ with PNG or JPEG images."
    )


def read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the training images, uint8 [N, 32, 32, 3], and their classes 0..9, int64 [N].

    Raises UserError when `path` is missing, damaged or something else.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; CIFAR-10 is at {WHERE}.")
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    names: list[str] = []
    pickled = False
    for name, data in _training_files(path):
        pickled |= name.name.startswith("data_batch") and not name.suffix
        if name.suffix == ".bin":
            records = _records(name, data)
            labels.append(records[:, 0].astype(np.int64))
            images.append(records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        elif name.suffix.lower() in (".png", ".jpg", ".jpeg"):
            images.append(_image(name, data)[None])
            names.append(name.parent.name)
    if names:
        labels = [np.unique(names, return_inverse=True)[1].astype(np.int64)]
    if not images:
        why = "the Python version, a pickle, is not read; take the binary one" if pickled else "nothing found"
        raise UserError(f"{path} holds no CIFAR-10 that can be read ({why}): {WHERE}.")
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def _training_files(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of the files, sorted by name, without those of the test set."""
    if path.is_dir():
        for name in sorted(PurePosixPath(name) for name, _, strange in walk(path) if not strange):
            if _wanted(name) and (path / name).is_file():
                yield name, (path / name).read_bytes()
        return
    try:
        with tarfile.open(path) as archive:
            found = {}
            for member in archive:  # in the archive's order: a compressed stream cannot seek backwards
                name = PurePosixPath(member.name)
                if member.isfile() and _wanted(name):
                    reader = archive.extractfile(member)
                    found[name] = reader.read() if reader else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a tar: {error}.") from None
    yield from sorted(found.items())


def _wanted(name: PurePosixPath) -> bool:
    """Whether the file is not hidden, and outside of the test set."""
    return not hidden_part(str(name)) and not any(part.lower().startswith("test") for part in name.parts)


def _records(name: PurePosixPath, data: bytes) -> NDArray[np.uint8]:
    """Records of the binary version, uint8 [N, RECORD]. Raises UserError."""
    records = np.frombuffer(data, np.uint8)
    if not len(records) or len(records) % RECORD:
        raise UserError(f"{name} is not of CIFAR-10's binary version: {len(data)} bytes, not N x {RECORD}.")
    records = records.reshape(-1, RECORD)
    if records[:, 0].max() > 9:
        raise UserError(f"{name} has a label of {records[:, 0].max()}; CIFAR-10's are 0 to 9.")
    return records


def _image(name: PurePosixPath, data: bytes) -> NDArray[np.uint8]:
    """Decode one image, uint8 [32, 32, 3]. Raises UserError."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} cannot be read as an image: {error}.") from None
    if pixels.shape != (SIDE, SIDE, 3):
        raise UserError(f"{name} is {pixels.shape[1]}x{pixels.shape[0]}; CIFAR-10's images are 32x32.")
    return pixels
