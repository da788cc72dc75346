"""The tree of Kaggle's ImageNet challenge, on disk, in its zip, or in the tar in this zip.

Recognised by the folder of the images, by either table, or by the name of the tar.

    ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_18.JPEG
    ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG    or in val/<class>/
    LOC_val_solution.csv
    LOC_synset_mapping.txt

    imagenet_object_localization_patched2019.tar.gz         instead of ILSVRC/, which is in it

The class of a training image is its folder; that of a validation image is in the solution. The names of the
classes are in the mapping.
"""

import csv
import io
import re
from pathlib import Path

from preprocess.errors import UserError
from preprocess.shared.image_files import parts_of
from preprocess.sources.class_folders import Shape, sort_by_folder
from preprocess.sources.tables import Layout, Row, Source, table
from preprocess.sources.trees import InArchive, OnDisk, Text, Tree

IMAGES = "ILSVRC/Data/CLS-LOC"
TRAIN, VAL = f"{IMAGES}/train", f"{IMAGES}/val"
SOLUTION = "LOC_val_solution.csv"
MAPPING = "LOC_synset_mapping.txt"
PARTS = (TRAIN, VAL, SOLUTION, MAPPING)
PATCHED = "imagenet_object_localization_patched2019.tar.gz"
PACKED = (PATCHED, PATCHED.removesuffix(".gz"), "imagenet_object_localization.tar.gz")


def kaggle_tree(tree: Tree, above: str = "") -> Source:
    """Read the tree and its tables in the folder `above`.

    Raises:
        UserError: a part is missing, or parts disagree.
        OSError: a part cannot be read.
    """
    missing = [part for part in PARTS if not tree.holds(above + part)]
    if missing:
        seen = [part for part in PARTS if part not in missing] or [IMAGES]
        raise UserError(
            f"{tree.where} looks like Kaggle's tree, with {', '.join(seen)}, but lacks {', '.join(missing)}: "
            "unpack the download again"
        )
    return labelled_images(tree, above, tree.text(above + MAPPING), tree.text(above + SOLUTION))


def labelled_images(tree: Tree, above: str, mapping: Text, solution: Text) -> Source:
    """Read the images of a tree, whose val/ may be flat, or sorted into class folders.

    Args:
        tree: the images.
        above: the folder that holds ILSVRC/, with / or empty.
        mapping, solution: the tables, which may lie elsewhere.

    Raises:
        UserError: parts disagree.
        OSError: a folder cannot be listed.
    """
    names = read_mapping(mapping)
    classes = tuple(sorted(names))
    index = {wnid: number for number, wnid in enumerate(classes)}
    truth = read_solution(solution)
    file = 0 if tree.archives else -1
    files = list(tree.files(f"{above}{IMAGES}/"))
    not_val = (entry for entry in files if not entry.name.startswith(f"{above}{VAL}/"))
    found = sort_by_folder(tree.where, not_val, Shape(len(parts_of(above + IMAGES))), file)
    train: list[Row] = []
    for wnid, rows in found.rows["train"].items():
        if wnid not in index:
            raise UserError(
                f"{tree.where / above / TRAIN / wnid} is a class that {mapping.path} does not name: "
                "get both again"
            )
        train += [row._replace(label=index[wnid]) for row in rows]
    val: list[Row] = []
    for entry in files:
        if entry.name.startswith(f"{above}{VAL}/") and found.aside.is_image(entry):
            path = Path(entry.name)
            wnid = truth.get(path.stem, "")
            if wnid not in index:
                raise UserError(
                    f"{tree.where / path} has {f'the class {wnid}' if wnid else 'no line'} in {SOLUTION}, "
                    f"which {f'{MAPPING} does not name' if wnid else 'must name it'}: get the files again"
                )
            if path.parent.name in index and path.parent.name != wnid:
                raise UserError(
                    f"{tree.where / path} has the class {wnid} in {SOLUTION}: move it to the folder of that "
                    "class"
                )
            val.append(Row(entry.name, file, entry.offset, entry.length, index[wnid]))
    if not val:
        raise UserError(f"{tree.where / above / VAL} holds no image: unpack the download again")
    return Source(
        kind=f"Kaggle's tree{tree.form}",
        root=tree.root,
        archives=tree.archives,
        classes=classes,
        class_names=tuple(names[wnid] for wnid in classes),
        train=table(train),
        val=table(val),
        ignored=tuple(found.aside.ignored),
        hidden=len(found.aside.hidden),
    )


def read_mapping(mapping: Text) -> dict[str, str]:
    """Class names by wnid, from lines such as `n01440764 tench, Tinca tinca`.

    Raises:
        UserError: a line has not both.
    """
    pairs = {}
    for line in mapping.text.splitlines():
        # a spreadsheet quotes what has a comma, and fills up short lines with separators
        row = _unquoted(line.strip().rstrip(",;\t "))
        if row:
            wnid, _, name = re.sub(r"[\s,;]+", " ", row, count=1).partition(" ")
            if not name:
                raise UserError(f"{mapping.path} does not hold lines of a wnid and a name: get it again")
            pairs[wnid] = _unquoted(name)
    if not pairs:
        raise UserError(f"{mapping.path} does not hold lines of a wnid and a name: get it again")
    return pairs


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def read_solution(solution: Text) -> dict[str, str]:
    """The wnid of each validation image: the first word of PredictionString, before the boxes.

    Raises:
        UserError: a column or a class is missing.
    """
    text = solution.text
    separator = ";" if ";" in text.partition("\n")[0] else ","
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
            raise UserError(f"{solution.path} lacks the columns ImageId and PredictionString: get it again")
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (AttributeError, IndexError, csv.Error) as error:
        raise UserError(f"{solution.path} has a line without a class: get it again") from error


def _packed(root: Path) -> list[str]:
    return [name for name in PACKED if (root / name).is_file()]


def packed_tree(archive: Path, cache: Path | None) -> Source:
    """Read the tree in a tar, with the tables next to it.

    Raises:
        UserError: a part is missing, the tar is damaged, or as `labelled_images`.
    """
    tables, tree = OnDisk(archive.parent), InArchive(archive, cache)
    if missing := [name for name in (SOLUTION, MAPPING) if not tables.holds(name)]:
        raise UserError(
            f"{archive.parent} holds {archive.name} but lacks {' and '.join(missing)}: unpack them out of "
            "Kaggle's zip and put them there"
        )
    inside = f"{IMAGES}/"
    above = next((e.name.partition(inside)[0] for e in tree.entries if inside in e.name), None)
    if above is None:
        raise UserError(f"{archive} holds no image in {inside}: get it again")
    return labelled_images(tree, above, tables.text(MAPPING), tables.text(SOLUTION))


def _marks(path: Path) -> list[str]:
    if path.is_file():
        return [path.name] if path.name in PACKED else []
    return [*(name for name in (IMAGES, SOLUTION, MAPPING) if (path / name).exists()), *_packed(path)]


def _read(path: Path, cache: Path | None) -> Source:
    if path.is_file():
        return packed_tree(path, cache)
    packed = _packed(path)
    if packed and not (path / IMAGES).exists():
        return packed_tree(path / packed[0], cache)
    return kaggle_tree(OnDisk(path))


LAYOUT = Layout(name="Kaggle's tree", marks=_marks, read=_read)
