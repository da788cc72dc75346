"""Reads the devkit of ILSVRC-2012: the classes, and the labels of the validation images."""

import gzip
import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import UserError

META = "data/meta.mat"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
LONGEST = 2**26  # bytes read of a file: the real ones have 100 kB, and a decompression bomb is cut off


@dataclass(frozen=True, slots=True)
class Devkit:
    """The classes in sorted order of their wnids, and the labels of the validation set."""

    classes: tuple[str, ...]  # wnids, such as n01440764
    class_names: tuple[str, ...]  # in words, such as "tench, Tinca tinca"
    validation: NDArray[np.int16]  # [N] labels; image number n of the set has that at n - 1


def read_devkit(archive: Path) -> Devkit:
    """Read the two files of the devkit: a tar, compressed or not, or the folder that it holds.

    Raises:
        UserError: one is missing or damaged, or they disagree.
        OSError: no access.
    """
    try:
        if archive.is_dir():
            found = {
                name: (archive / name).read_bytes() for name in (META, TRUTH) if (archive / name).exists()
            }
        else:
            with archive.open("rb") as file:
                mode: Literal["r:gz", "r:"] = "r:gz" if file.read(2) == b"\x1f\x8b" else "r:"
            found = _read_members(archive, mode)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{archive} cannot be read ({error}): get it again") from error
    for wanted in (META, TRUTH):
        if wanted not in found:
            raise UserError(f"{archive} holds no {wanted}: get it again")

    from scipy.io import loadmat  # slow to import, and only the official tars need it

    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(found[META]), squeeze_me=True)["synsets"])
        # the file also holds the inner nodes of WordNet's hierarchy; the classes are its leaves
        leaves = sorted(
            (str(synset["WNID"]), str(synset["words"]), int(synset["ILSVRC2012_ID"]))
            for synset in synsets
            if int(synset["num_children"]) == 0
        )
    except Exception as error:  # scipy raises many kinds of errors for a damaged file
        raise UserError(f"{archive}: {META} cannot be read ({error}): get it again") from error
    index_of_id = {identity: index for index, (_, _, identity) in enumerate(leaves)}  # IDs count from 1
    try:
        validation = [index_of_id[int(line)] for line in found[TRUTH].split()]
    except (KeyError, ValueError) as error:
        raise UserError(f"{archive}: {TRUTH} names class {error}, which {META} does not have") from error
    return Devkit(
        classes=tuple(wnid for wnid, _, _ in leaves),
        class_names=tuple(words for _, words, _ in leaves),
        validation=np.array(validation, dtype=np.int16),
    )


def _read_members(archive: Path, mode: Literal["r:gz", "r:"]) -> dict[str, bytes]:
    with tarfile.open(archive, mode) as tar:
        return {
            wanted: file.read(LONGEST)
            for member in tar
            for wanted in (META, TRUTH)
            if member.name.endswith(wanted) and member.isreg() and (file := tar.extractfile(member))
        }
