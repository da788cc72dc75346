"""The tree of Kaggle's ImageNet challenge: training pictures in class folders, a flat validation part."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from preprocess.errors import UserError
from preprocess.sources.tables import Entry, Picture, Source, is_picture, table

IMAGES = Path("ILSVRC/Data/CLS-LOC")
SOLUTION = "LOC_val_solution.csv"
MAPPING = "LOC_synset_mapping.txt"
PARTS = (f"{IMAGES}/train", f"{IMAGES}/val", SOLUTION, MAPPING)


def kaggle_tree(root: Path) -> Source:
    """Read the tree below `root`; raises UserError where a part is missing or parts do not fit together."""
    missing = [part for part in PARTS if not (root / part).exists()]
    if missing:
        seen = [part for part in PARTS if part not in missing] or [str(IMAGES)]
        raise UserError(
            f"{root} looks like Kaggle's tree, with {', '.join(seen)}, but lacks {', '.join(missing)}: "
            "unpack the download again"
        )
    names = read_mapping(root / MAPPING)
    classes = tuple(sorted(names))
    index = {wnid: number for number, wnid in enumerate(classes)}
    truth = read_solution(root / SOLUTION)
    train: list[Picture] = []
    val: list[Picture] = []
    ignored: list[str] = []
    for folder in sorted(entry for entry in (root / PARTS[0]).iterdir() if entry.is_dir()):
        if folder.name not in index:
            raise UserError(f"{folder} is a class that {root / MAPPING} does not name: get both again")
        label = index[folder.name]
        train += [Picture(e.name, -1, 0, e.length, label) for e in files(root, folder, ignored)]
    for entry in files(root, root / PARTS[1], ignored):
        wnid = truth.get(Path(entry.name).stem)
        if wnid not in index:
            raise UserError(
                f"{root / entry.name} has {'no line' if wnid is None else f'the class {wnid}'} in "
                f"{SOLUTION}, which {'must name it' if wnid is None else f'{MAPPING} does not name'}: "
                "get the files again"
            )
        val.append(Picture(entry.name, -1, 0, entry.length, index[wnid]))
    for part, found in zip(PARTS, (train, val), strict=False):
        if not found:
            raise UserError(f"{root / part} holds no picture: unpack the download again")
    return Source(
        kind="Kaggle's tree",
        root=root,
        archives=(),
        classes=classes,
        class_names=tuple(names[wnid] for wnid in classes),
        train=table(train),
        val=table(val),
        ignored=tuple(ignored),
    )


def files(root: Path, folder: Path, ignored: list[str]) -> Iterator[Entry]:
    """The pictures in one folder, named from `root` on; other files are added to `ignored`."""
    prefix = folder.relative_to(root).as_posix()
    with os.scandir(folder) as found:
        for entry in found:
            name = f"{prefix}/{entry.name}"
            if entry.is_dir():
                continue
            if not is_picture(entry.name):
                ignored.append(f"{name} (not named as a picture)")
            elif not entry.is_file():
                ignored.append(f"{name} (not a file)")
            else:
                yield Entry(name, 0, entry.stat().st_size)


def read_mapping(path: Path) -> dict[str, str]:
    """Class names by wnid, from lines such as `n01440764 tench, Tinca tinca`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{path} does not hold lines of a wnid and a name: get it again")
    return {pair[0]: pair[1] for pair in pairs}


def read_solution(path: Path) -> dict[str, str]:
    """The wnid of each validation picture: the first word of PredictionString, before the boxes."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path} lacks the columns ImageId and PredictionString: get it again")
        try:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        except (AttributeError, IndexError, csv.Error) as error:
            raise UserError(f"{path} has a line without a class: get it again") from error
