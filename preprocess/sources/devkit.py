"""Reads ILSVRC2012_devkit_t12.tar.gz: the classes, and the labels of the validation images."""

import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

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
    validation: NDArray[np.int16]  # [N] labels, in the order of the images' sorted names


def read_devkit(archive: Path) -> Devkit:
    """Read the two files. Raises UserError when one is missing or damaged, or they disagree."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            found = {
                wanted: file.read(LONGEST)
                for member in tar
                for wanted in (META, TRUTH)
                if member.name.endswith(wanted) and member.isreg() and (file := tar.extractfile(member))
            }
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
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
