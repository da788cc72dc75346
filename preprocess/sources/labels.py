"""Compares labels with the official ones of ILSVRC-2012, wherever the name of an image tells its class.

The number in ILSVRC2012_val_00000293.JPEG is a line of the devkit's ground truth. n01440764_10026.JPEG is a
training image of the class n01440764.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from preprocess.sources.devkit import Devkit

VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")
TRAINING = re.compile(r"(n\d{8})_\d+(?!\d)")
SHOWN = 5  # contradictions that are kept


@dataclass(slots=True)
class Compared:
    """The numbers of images, and the first contradictions in words."""

    agreed: int = 0
    contradicting: int = 0
    untold: int = 0  # the name does not tell a class, or the class of the store is not in the devkit
    first: list[str] = field(default_factory=list)


def official_class(name: str, devkit: Devkit) -> str:
    """The WordNet ID that the name of an image tells; "" where it tells none."""
    last = name.rpartition("/")[2]
    if match := VALIDATION.match(last):
        number = int(match[1])
        if 1 <= number <= len(devkit.validation):
            return devkit.classes[devkit.validation[number - 1]]
    elif match := TRAINING.match(last):
        return match[1]
    return ""


def ids_of(classes: Sequence[str], class_names: Sequence[str] | None, devkit: Devkit) -> list[str]:
    """The WordNet ID of each class, by its name or its words; "" where neither is in the devkit."""
    known = {wnid: wnid for wnid in devkit.classes}
    often = Counter(devkit.class_names)  # two classes are a crane
    pairs = zip(devkit.class_names, devkit.classes, strict=True)
    known |= {words: wnid for words, wnid in pairs if often[words] == 1}
    words = class_names or classes
    return [known.get(name, known.get(word, "")) for name, word in zip(classes, words, strict=True)]


def compare(labelled: Iterable[tuple[str, int]], ids: Sequence[str], devkit: Devkit) -> Compared:
    """Compare the labels of images with the official ones.

    Args:
        labelled: the name of each image and its label.
        ids: by label, as `ids_of` gives them.
        devkit: the official labels.
    """
    found = Compared()
    for name, label in labelled:
        official = official_class(name, devkit)
        if not official or not ids[label]:
            found.untold += 1
        elif official == ids[label]:
            found.agreed += 1
        else:
            found.contradicting += 1
            if found.contradicting <= SHOWN:
                found.first.append(f"{name} is {ids[label]} in the store and {official} officially")
    return found
