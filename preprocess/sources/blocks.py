"""Groups the images in archives compressed with gzip, so that each part of them is decompressed once."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from preprocess.containers.gzip import BLOCK, is_gzip
from preprocess.sources.tables import Source


def in_blocks(source: Source) -> Source:
    """The same source; images that begin in one block of a decompressed stream are a group.

    Raises:
        OSError: an archive cannot be opened.
    """
    compressed = np.array([is_gzip(source.root / name) for name in source.archives], dtype=bool)
    if not compressed.any():
        return source
    train, val = (_in_blocks(rows, compressed) for rows in (source.train, source.val))
    return replace(source, train=train, val=val)


def _in_blocks(rows: NDArray[np.void], compressed: NDArray[np.bool_]) -> NDArray[np.void]:
    """The rows with groups, where one of them is in a compressed archive."""
    if not compressed[rows["file"][rows["file"] >= 0]].any():
        return rows
    grouped = rows.copy()
    places = np.stack([rows["file"], rows["offset"] // BLOCK])
    grouped["group"] = np.unique(places, axis=1, return_inverse=True)[1].ravel()
    return grouped
