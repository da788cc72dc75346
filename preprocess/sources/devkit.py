"""ILSVRC2012_devkit_t12.tar.gz: which class each validation picture shows."""

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
LONGEST = 2**26  # bytes


@dataclass(frozen=True, slots=True)
class Devkit:
    """The classes in sorted order of their wnid, and the truth about the validation set."""

    classes: tuple[str, ...]  # wnids, such as n01440764
    class_names: tuple[str, ...]  # in words, such as "tench, Tinca tinca"
    validation: NDArray[np.int16]  # [N] index into `classes`, in the order of the pictures' sorted names


def read_devkit(archive: Path) -> Devkit:
    """Read the two files that matter; raises UserError when they are missing or do not fit together."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            found = {
                wanted: file.read(LONGEST)  # the real ones have 100 KB; a bomb is cut off and then refused
                for member in tar
                for wanted in (META, TRUTH)
                if member.name.endswith(wanted) and member.isreg() and (file := tar.extractfile(member))
            }
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{archive} cannot be read ({error}): get it again") from error
    for wanted in (META, TRUTH):
        if wanted not in found:
            raise UserError(f"{archive} holds no {wanted}: get it again")

    from scipy.io import loadmat  # slow to import, and only the official set has this file

    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(found[META]), squeeze_me=True)["synsets"])
        # the file also holds the inner nodes of the hierarchy; the classes are its leaves
        leaves = sorted(
            (str(synset["WNID"]), str(synset["words"]), int(synset["ILSVRC2012_ID"]))
            for synset in synsets
            if int(synset["num_children"]) == 0
        )
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        raise UserError(f"{archive}: {META} cannot be read ({error}): get it again") from error
    index_of_id = {identity: index for index, (_, _, identity) in enumerate(leaves)}  # IDs count from 1
    try:
        validation = [index_of_id[int(line)] for line in found[TRUTH].split()]
    except (KeyError, ValueError) as error:
        raise UserError(f"{archive}: {TRUTH} speaks of class {error}, which {META} does not know") from error
    return Devkit(
        classes=tuple(wnid for wnid, _, _ in leaves),
        class_names=tuple(words for _, words, _ in leaves),
        validation=np.array(validation, dtype=np.int16),
    )
