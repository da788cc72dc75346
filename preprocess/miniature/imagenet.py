"""Makes a small synthetic ImageNet in the official layout: three archives, ten classes, odd formats too.

    python -m preprocess.miniature [data/imagenet] [--train N] [--val N] [--seed S]

The same arguments give the same bytes. drawing.py makes the images; here they are packed as in the official
archives: a tar of one tar a class, a flat tar, and a development kit with the labels.
"""

import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby, repeat
from pathlib import Path

import numpy as np
import tyro

from preprocess.miniature.drawing import KINDS, Split, encode
from preprocess.shared.cores import available_cores
from preprocess.shared.ranges import SEEDS, Range

VERSION = 1  # to be raised when the images or the layout change
STAMP = "miniature.json"
DEVKIT = "ILSVRC2012_devkit_t12"
README = """The development kit of a miniature: drawn pictures in the layout of ILSVRC2012.

data/meta.mat                                 synsets; those without children are the classes
data/ILSVRC2012_validation_ground_truth.txt   the ILSVRC2012_ID of each validation picture, by number
"""
FIELDS = (
    *("ILSVRC2012_ID", "WNID", "words", "gloss"),
    *("num_children", "children", "wordnet_height", "num_train_images"),
)
# ILSVRC2012_ID by label: as in the real kit, not in the order of the wnids
IDS = (7, 3, 10, 1, 5, 8, 2, 9, 6, 4)
FAMILIES = (  # synsets that are no classes: ID, WNID, words, gloss, children, height
    (11, "n90000318", "figure, shape", "whatever has a silhouette", (12, 13), 2),
    (12, "n93300275", "round figure", "a figure without straight edges", (1, 4, 6, 7, 8, 9), 1),
    (13, "n96600482", "angular figure", "a figure with corners", (2, 3, 5, 10), 1),
)


def make(
    folder: tyro.conf.Positional[Path] = Path("data/imagenet"),
    train: int = 1600,
    val: int = 400,
    seed: int = 0,
) -> None:
    """Makes a small synthetic ImageNet in the official layout; the same arguments give the same bytes.

    Args:
        folder: where to write.
        train: number of training images.
        val: number of validation images.
        seed: of all random choices.
    """
    for option, number, allowed in (
        ("--train", train, Range("[20, 1e6]")),
        ("--val", val, Range("[20, 1e6]")),
        ("--seed", seed, Range(SEEDS)),
    ):
        if number not in allowed:
            raise ValueError(f"{option} must be {allowed}, not {number}.")
    for option, count in (("--train", train), ("--val", val)):
        if count % len(KINDS):
            raise ValueError(f"{option} must be a multiple of {len(KINDS)}, not {count}.")
    stamp = json.dumps({"miniature": VERSION, "train": train, "val": val, "seed": seed}) + "\n"
    if folder.exists():
        if (folder / STAMP).is_file() and (folder / STAMP).read_text() == stamp:
            print(f"{folder} already holds this miniature")
            return
        raise FileExistsError(f"{folder} holds something else: name another folder, or move it away")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".miniature-", dir=folder.parent) as scratch:
        unfinished = Path(scratch, folder.name)
        unfinished.mkdir()
        write_train(unfinished / "ILSVRC2012_img_train.tar", seed, train)
        write_val(unfinished / "ILSVRC2012_img_val.tar", seed, val)
        write_devkit(unfinished / "ILSVRC2012_devkit_t12.tar.gz", seed, train, val)
        (unfinished / STAMP).write_text(stamp)
        unfinished.rename(folder)
    print(f"{folder}: {train:,} training and {val:,} validation images of {len(KINDS)} classes")


def labels(seed: int, split: Split, count: int) -> dict[int, int]:
    """Labels by the image's number, from 1: every class equally often, in random order."""
    rng = np.random.default_rng((seed, ("train", "val").index(split)))
    return dict(enumerate(rng.permutation(np.arange(count) % len(KINDS)).tolist(), 1))


def files(seed: int, split: Split, chosen: Mapping[int, int]) -> Iterator[bytes]:
    """Yield the files of images, given as labels by number, drawn on all cores."""
    with ProcessPoolExecutor(available_cores()) as pool:
        yield from pool.map(encode, repeat(seed), repeat(split), chosen, chosen.values(), chunksize=8)


def write_train(path: Path, seed: int, count: int) -> None:
    """Write the training tar: one tar a class, in the order of the wnids."""
    by_class = dict(sorted(labels(seed, "train", count).items(), key=lambda item: item[1]))
    numbered = zip(by_class.items(), files(seed, "train", by_class), strict=True)
    with tarfile.open(path, "w") as outer:
        for label, members in groupby(numbered, key=lambda file: file[0][1]):
            wnid, tar = KINDS[label].wnid, io.BytesIO()
            with tarfile.open(fileobj=tar, mode="w") as inner:
                for (number, _), content in members:
                    add(inner, f"{wnid}_{number}.JPEG", content)
            add(outer, f"{wnid}.tar", tar.getvalue())


def write_val(path: Path, seed: int, count: int) -> None:
    """Write the validation tar, flat."""
    with tarfile.open(path, "w") as tar:
        for number, content in enumerate(files(seed, "val", labels(seed, "val", count)), 1):
            add(tar, f"ILSVRC2012_val_{number:08d}.JPEG", content)


def write_devkit(path: Path, seed: int, train: int, val: int) -> None:
    """Write the development kit: readme, classes, validation labels."""
    truth = "".join(f"{IDS[label]}\n" for label in labels(seed, "val", val).values())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, f"{DEVKIT}/readme.txt", README.encode())
        add(tar, f"{DEVKIT}/data/meta.mat", meta(train // len(KINDS)))
        add(tar, f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())
    path.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))


def meta(train_per_class: int) -> bytes:
    """The bytes of meta.mat, with the fields of the real one: the classes, then the families above them."""
    rows: list[tuple[object, ...]] = [
        (id_, kind.wnid, f"{kind.pattern} {kind.silhouette}", "drawn", 0, (), 0, train_per_class)
        for id_, kind in zip(IDS, KINDS, strict=True)
    ]
    rows += [(*family, len(children), children, height, 0) for *family, children, height in FAMILIES]
    synsets = np.empty((len(rows), 1), [(field, object) for field in FIELDS])
    synsets[:, 0] = sorted(rows)
    import scipy.io  # slow to import

    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": synsets}, oned_as="row")
    header = b"MATLAB 5.0 MAT-file, a miniature".ljust(116)  # scipy's own header holds the time
    return header + file.getvalue()[len(header) :]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member without time and owner, so that the same content gives the same archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
