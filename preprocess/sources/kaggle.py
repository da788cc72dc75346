"""The tree of Kaggle's ImageNet challenge: class folders for training, a table for validation."""

import csv
import io
import re
from pathlib import Path

from preprocess.errors import UserError
from preprocess.shared.image_files import parts_of
from preprocess.sources.class_folders import Shape, files_on_disk, sort_by_folder
from preprocess.sources.tables import Layout, Row, Source, table

IMAGES = "ILSVRC/Data/CLS-LOC"
TRAIN, VAL = f"{IMAGES}/train", f"{IMAGES}/val"
SOLUTION = "LOC_val_solution.csv"
MAPPING = "LOC_synset_mapping.txt"
PARTS = (TRAIN, VAL, SOLUTION, MAPPING)


def kaggle_tree(root: Path) -> Source:
    """Read the tree below `root`; its val/ may be flat, or sorted into class folders.

    Raises:
        UserError: a part is missing, or parts disagree.
        OSError: a part cannot be read.
    """
    missing = [part for part in PARTS if not (root / part).exists()]
    if missing:
        seen = [part for part in PARTS if part not in missing] or [IMAGES]
        raise UserError(
            f"{root} looks like Kaggle's tree, with {', '.join(seen)}, but lacks {', '.join(missing)}: "
            "unpack the download again"
        )
    names = read_mapping(root / MAPPING)
    classes = tuple(sorted(names))
    index = {wnid: number for number, wnid in enumerate(classes)}
    truth = read_solution(root / SOLUTION)
    files = list(files_on_disk(root, f"{IMAGES}/"))
    not_val = (entry for entry in files if not entry.name.startswith(f"{VAL}/"))
    found = sort_by_folder(root, not_val, Shape(len(parts_of(IMAGES))), -1)
    train: list[Row] = []
    for wnid, rows in found.rows["train"].items():
        if wnid not in index:
            raise UserError(
                f"{root / TRAIN / wnid} is a class that {root / MAPPING} does not name: get both again"
            )
        train += [row._replace(label=index[wnid]) for row in rows]
    val: list[Row] = []
    for entry in files:
        if entry.name.startswith(f"{VAL}/") and found.aside.is_image(entry):
            path = Path(entry.name)
            wnid = truth.get(path.stem, "")
            if wnid not in index:
                raise UserError(
                    f"{root / path} has {f'the class {wnid}' if wnid else 'no line'} in {SOLUTION}, "
                    f"which {f'{MAPPING} does not name' if wnid else 'must name it'}: get the files again"
                )
            if path.parent.name in index and path.parent.name != wnid:
                raise UserError(
                    f"{root / path} has the class {wnid} in {SOLUTION}: move it to the folder of that class"
                )
            val.append(Row(entry.name, -1, 0, entry.length, index[wnid]))
    if not val:
        raise UserError(f"{root / VAL} holds no image: unpack the download again")
    return Source(
        kind="Kaggle's tree",
        root=root,
        archives=(),
        classes=classes,
        class_names=tuple(names[wnid] for wnid in classes),
        train=table(train),
        val=table(val),
        ignored=tuple(found.aside.ignored),
        hidden=len(found.aside.hidden),
    )


def read_mapping(path: Path) -> dict[str, str]:
    """Class names by wnid, from lines such as `n01440764 tench, Tinca tinca`.

    Raises:
        UserError: a line has not both, or as `read_text`.
    """
    pairs = {}
    for line in read_text(path).splitlines():
        # a spreadsheet quotes what has a comma, and fills up short lines with separators
        row = _unquoted(line.strip().rstrip(",;\t "))
        if row:
            wnid, _, name = re.sub(r"[\s,;]+", " ", row, count=1).partition(" ")
            if not name:
                raise UserError(f"{path} does not hold lines of a wnid and a name: get it again")
            pairs[wnid] = _unquoted(name)
    if not pairs:
        raise UserError(f"{path} does not hold lines of a wnid and a name: get it again")
    return pairs


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def read_solution(path: Path) -> dict[str, str]:
    """The wnid of each validation image: the first word of PredictionString, before the boxes.

    Raises:
        UserError: a column or a class is missing, or as `read_text`.
    """
    text = read_text(path)
    separator = ";" if ";" in text.partition("\n")[0] else ","
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path} lacks the columns ImageId and PredictionString: get it again")
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (AttributeError, IndexError, csv.Error) as error:
        raise UserError(f"{path} has a line without a class: get it again") from error


def read_text(path: Path) -> str:
    """A file's text; a byte order mark, which spreadsheets write, is left out. Raises UserError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8: save it as CSV in UTF-8, or get it again") from error


LAYOUT = Layout(
    name="Kaggle's tree",
    marks=lambda path: [name for name in (IMAGES, SOLUTION, MAPPING) if (path / name).exists()],
    read=lambda path, _: kaggle_tree(path),
)
