"""Class folders for training, a flat val/, and a list of the classes of its images.

Recognised by images that lie directly in val/, with a list next to it, in it or in caffe_ilsvrc12/.

    train/n01440764/n01440764_18.JPEG
    val/ILSVRC2012_val_00000001.JPEG
    val.txt                         Caffe's: a name and the class's number, or the class itself
    LOC_val_solution.csv            or Kaggle's
    ILSVRC2012_devkit_t12.tar.gz    or the devkit, also unpacked

The class of a training image is its folder. Caffe counts the classes from 0 in sorted order.
"""

from pathlib import Path

from preprocess.errors import UserError
from preprocess.shared.image_files import hidden_part, is_image_name
from preprocess.sources import class_folders, kaggle, official
from preprocess.sources.class_folders import Shape, files_on_disk, part_folders, sort_by_folder
from preprocess.sources.devkit import TRUTH, read_devkit
from preprocess.sources.tables import Layout, Row, Source, in_class_order, table
from preprocess.sources.trees import OnDisk, Text

CAFFE = "val.txt"
PLACES = ("", "caffe_ilsvrc12/")
BARE_TRUTH = TRUTH.rpartition("/")[2]
LISTS = (CAFFE, kaggle.SOLUTION, *official.DEVKITS, BARE_TRUTH)


def flat_validation(root: Path) -> Source:
    """Read the folders and the list.

    Raises:
        UserError: there are two lists, the list is ambiguous, or it does not fit the images.
        OSError: a folder cannot be listed.
    """
    (folder,) = part_folders(root, "val")
    lists = _lists(root, folder)
    if len(lists) > 1:
        raise UserError(
            f"{root} holds {' and '.join(lists)}, which are lists for {folder}/: leave only one of them there"
        )
    used = {folder, *(name.partition("/")[0] for name in lists)}
    entries = list(files_on_disk(root))
    others = (entry for entry in entries if entry.name.partition("/")[0] not in used)
    found = sort_by_folder(root, others, Shape(), -1)
    by_class = found.rows["train"]
    classes = in_class_order(by_class)
    index = {name: label for label, name in enumerate(classes)}
    truth = _truth(root, lists[0], classes)
    val = []
    for entry in entries:
        if entry.name.startswith(f"{folder}/") and entry.name not in lists and found.aside.is_image(entry):
            name = truth.get(Path(entry.name).stem)
            if name not in index:
                wrong = (
                    f"is of class {name} in {lists[0]}, but there is no train/{name}"
                    if name
                    else (f"has no line in {lists[0]}")
                )
                raise UserError(f"{root / entry.name} {wrong}: put there what belongs together")
            val.append(Row(entry.name, -1, entry.offset, entry.length, index[name]))
    return Source(
        kind="class folders and a list for validation",
        root=root,
        archives=(),
        classes=classes,
        class_names=None,
        train=table(row._replace(label=index[name]) for name, rows in by_class.items() for row in rows),
        val=table(val),
        ignored=tuple(found.aside.ignored),
        hidden=len(found.aside.hidden),
        notes=(*found.notes, f"the classes of {folder}/ are those in {lists[0]}"),
    )


def _truth(root: Path, name: str, classes: tuple[str, ...]) -> dict[str, str]:
    """The class of each validation image, by its name without suffix. Raises UserError."""
    kind = name.rpartition("/")[2]
    if kind == BARE_TRUTH:
        raise UserError(
            f"{root / name} has the numbers of ILSVRC-2012 and not the classes that they stand for: "
            f"put {official.DEVKIT} at {root} in its place"
        )
    if kind in official.DEVKITS:
        devkit = read_devkit(root / name)
        return {
            f"ILSVRC2012_val_{number:08d}": devkit.classes[label]
            for number, label in enumerate(devkit.validation.tolist(), start=1)
        }
    text = OnDisk(root).text(name)
    return kaggle.read_solution(text) if kind == kaggle.SOLUTION else read_caffe(text, classes)


def read_caffe(listed: Text, classes: tuple[str, ...]) -> dict[str, str]:
    """The class of each image, from lines of a name and the number or the name of a class.

    Raises:
        UserError: a line has not both, an image has two classes, or the numbers are not 0 to K - 1.
    """
    truth: dict[str, str] = {}
    for line in listed.text.splitlines():
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        stem = Path(name.strip()).stem
        if not stem or truth.setdefault(stem, label) != label:
            raise UserError(
                f"{listed.path} has the line {line[:80]!r}: it must have lines of an image's name and its "
                "class, and each image once"
            )
    if truth and set(truth.values()) <= set(classes):
        return truth
    numbers = {str(label): name for label, name in enumerate(classes)}
    if set(truth.values()) != numbers.keys():
        raise UserError(
            f"{listed.path} must name the {len(classes)} classes of train/, or number them from 0 to "
            f"{len(classes) - 1} in sorted order: get the list that belongs to the images"
        )
    return {stem: numbers[label] for stem, label in truth.items()}


def _lists(root: Path, folder: str) -> list[str]:
    """The lists for the images in a folder."""
    places = (*PLACES, f"{folder}/")
    return [place + name for place in places for name in LISTS if (root / place / name).exists()]


def _marks(path: Path) -> list[str]:
    folders = part_folders(path, "val")
    if len(folders) != 1 or not part_folders(path, "train"):
        return []
    if (path / kaggle.IMAGES).exists() or official.complete(path):
        return []
    inside = (entry.name for entry in (path / folders[0]).iterdir())
    flat = any(is_image_name(name) and not hidden_part(name) for name in inside)
    lists = _lists(path, folders[0])
    return [f"{folders[0]}/", *lists] if flat and lists else []


LAYOUT = Layout(
    name="class folders and a list for validation",
    marks=_marks,
    read=lambda path, _: flat_validation(path),
    before=(class_folders.LAYOUT.name, kaggle.LAYOUT.name, official.LAYOUT.name),
)
