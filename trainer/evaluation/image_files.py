"""Image files -> images as the store has them.

preprocess/pictures/ decodes and resizes them, as it does for the store, so that the network's input is the
same to the byte as in training. The rest of the trainer imports preprocess.store alone.

S side of the image.
"""

from __future__ import annotations

import stat
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from preprocess.pictures import MAX_BYTES, UnreadableError, convert
from preprocess.shared.cores import available_cores
from preprocess.shared.image_files import counted, hidden_part, is_image_name, known_unreadable, walk
from preprocess.shared.names import shown
from trainer.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

Images: TypeAlias = str | Path | NDArray[np.uint8] | Iterable[str | Path | NDArray[np.uint8]]
"""The path of an image file, or an array uint8 [S, S, 3]; several of them; or an array uint8 [B, S, S, 3]."""

AHEAD = 64
"""Images that are decoded before they are asked for: 13 MB."""


@dataclass(frozen=True)
class ImageFile:
    """One file's image; `error` where it cannot be read."""

    path: Path
    error: str = ""
    repairs: tuple[str, ...] = ()
    image_SS3: NDArray[np.uint8] | None = None


def find(paths: Sequence[Path]) -> list[Path]:
    """List the files themselves, and every image below the folders, by name.

    Links are followed. What is hidden in a folder is left aside; it is counted on stderr.

    Raises:
        UserError: there is no image, or no access.
    """
    if not paths:
        raise UserError("Name images or folders, such as: cat.jpg holiday/")
    found: list[Path] = []
    for path in paths:
        try:
            found += _images_in(path) if path.is_dir() else [path]
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be listed ({error.strerror}): make it readable."
            ) from error
        if not path.exists():
            raise UserError(f"There is no image {path}.")
    return found


def _images_in(folder: Path) -> list[Path]:
    """The image files below a folder, by name. Raises UserError, OSError."""
    names, hidden = [], set()
    unreadable: Counter[str] = Counter()
    for name, _, strange in walk(folder):
        if part := hidden_part(name):
            hidden.add(part)
        elif strange:
            print(f"note: {shown(folder / name)} is left aside: {strange}", file=sys.stderr)
        elif is_image_name(name):
            names.append(name)
        elif format := known_unreadable(name):
            unreadable[format] += 1
    if unreadable:
        print(f"note: {shown(folder)}: {counted(unreadable)}", file=sys.stderr)
    if hidden:
        print(f"note: {shown(folder)}: hidden entries left aside: {len(hidden)}", file=sys.stderr)
    if not names:
        raise UserError(f"There is no image in {folder} that can be read.")
    return sorted(folder / name for name in names)


def read(path: Path, size: int, upright: bool) -> ImageFile:
    """Decode and resize one file to uint8 [size, size, 3].

    upright: turn it as its EXIF data say, as the training set's images were.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to read a pipe could take for ever
            raise UnreadableError("is no regular file")
        if found.st_size > MAX_BYTES:
            raise UnreadableError(f"has {found.st_size:,} bytes, more than {MAX_BYTES:,}")
        image, repairs = convert(path.read_bytes(), path.name, size, upright=upright)
    except UnreadableError as error:
        return ImageFile(path, error=str(error))
    except OSError as error:
        return ImageFile(path, error=f"cannot be read: {error.strerror}")
    return ImageFile(path, repairs=repairs, image_SS3=image)


def batches(paths: Sequence[Path], size: int, upright: bool, batch: int) -> Iterator[list[ImageFile]]:
    """The files in their order, at most `batch` at a time; threads decode those that come next."""
    images = map_ahead(lambda path: read(path, size, upright), paths)
    for first in range(0, len(paths), batch):
        yield [next(images) for _ in paths[first : first + batch]]


def image(path: str | Path, size: int, upright: bool) -> NDArray[np.uint8]:
    """The image of one file, as `read` makes it. Raises UserError where it cannot be read."""
    file = read(Path(path), size, upright)
    if file.image_SS3 is None:
        raise UserError(f"{path} {file.error}")
    return file.image_SS3


def arrays(images: Images, size: int, upright: bool, batch: int) -> Iterator[NDArray[np.uint8]]:
    """Images uint8 [B, S, S, 3], at most `batch` at a time; one empty array where there are none.

    Raises ValueError for an array of another dtype or shape, UserError for a file that cannot be read.
    """

    def one(given: str | Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
        if isinstance(given, str | Path):
            return image(given, size, upright)
        return _checked(np.asarray(given), (size, size, 3))

    if hasattr(images, "shape"):
        array = np.asarray(images)
        shape = (size, size, 3) if array.ndim == 3 else (*array.shape[:1], size, size, 3)
        all_BSS3 = _checked(array, shape).reshape(-1, size, size, 3)
        parts = (all_BSS3[first : first + batch] for first in range(0, len(all_BSS3), batch))
    else:
        made = map_ahead(one, [images] if isinstance(images, str | Path) else images)
        parts = (np.stack(part) for part in iter(lambda: list(islice(made, batch)), []))
    yield next(parts, np.empty((0, size, size, 3), np.uint8))
    yield from parts


def _checked(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The same array. Raises ValueError for one of another shape, or that is no uint8."""
    if array.dtype != np.uint8 or array.shape != shape:
        S = shape[-2]
        raise ValueError(
            f"images must be uint8, 0..255, RGB, [{S}, {S}, 3] or [B, {S}, {S}, 3], not {array.dtype} "
            f"{list(array.shape)}; network.preprocess(path) makes such an image of a file"
        )
    return array


def map_ahead(function: Callable[[T], R], items: Iterable[T], ahead: int = AHEAD) -> Iterator[R]:
    """Like `map`, by a thread for each core; at most `ahead` items are begun before they are asked for."""
    begun: deque[Future[R]] = deque()
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="images") as threads:
        for item in items:
            begun.append(threads.submit(function, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def report_unreadable(files: Iterable[ImageFile]) -> int:
    """Name on stderr the files that cannot be read; returns the exit code: 1 where there are any."""
    code = 0
    for file in files:
        if file.error:
            print(f"error: {shown(file.path)} {shown(file.error)}", file=sys.stderr)
            code = 1
    return code
