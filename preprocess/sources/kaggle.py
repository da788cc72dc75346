"""The tree of Kaggle's ImageNet challenge: training images in class folders, a flat validation folder."""

import csv
from pathlib import Path

from preprocess.errors import UserError
from preprocess.sources.tables import Row, Source, image_files, table

IMAGES = Path("ILSVRC/Data/CLS-LOC")
SOLUTION = "LOC_val_solution.csv"
MAPPING = "LOC_synset_mapping.txt"
PARTS = (f"{IMAGES}/train", f"{IMAGES}/val", SOLUTION, MAPPING)


def kaggle_tree(root: Path) -> Source:
    """Read the tree below `root`. Raises UserError where a part is missing or parts disagree."""
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
    train: list[Row] = []
    val: list[Row] = []
    ignored: list[str] = []
    for folder in sorted(entry for entry in (root / PARTS[0]).iterdir() if entry.is_dir()):
        if folder.name not in index:
            raise UserError(f"{folder} is a class that {root / MAPPING} does not name: get both again")
        label = index[folder.name]
        train += [Row(e.name, -1, 0, e.length, label) for e in image_files(root, folder, ignored)]
    for entry in image_files(root, root / PARTS[1], ignored):
        wnid = truth.get(Path(entry.name).stem)
        if wnid not in index:
            raise UserError(
                f"{root / entry.name} has {'no line' if wnid is None else f'the class {wnid}'} in "
                f"{SOLUTION}, which {'must name it' if wnid is None else f'{MAPPING} does not name'}: "
                "get the files again"
            )
        val.append(Row(entry.name, -1, 0, entry.length, index[wnid]))
    for part, found in zip(PARTS, (train, val), strict=False):
        if not found:
            raise UserError(f"{root / part} holds no image: unpack the download again")
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


def read_mapping(path: Path) -> dict[str, str]:
    """Class names by wnid, from lines such as `n01440764 tench, Tinca tinca`. Raises UserError."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{path} does not hold lines of a wnid and a name: get it again")
    return {pair[0]: pair[1] for pair in pairs}


def read_solution(path: Path) -> dict[str, str]:
    """The wnid of each validation image: the first word of PredictionString, before the boxes.

    Raises:
        UserError: a column or a class is missing.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path} lacks the columns ImageId and PredictionString: get it again")
        try:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        except (AttributeError, IndexError, csv.Error) as error:
            raise UserError(f"{path} has a line without a class: get it again") from error
