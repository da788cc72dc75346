"""WebDataset: tars in which the members of a sample follow each other and have one key.

Recognised by the members of a tar: an image and its label, KEY.cls or KEY.json, under the same key. The key
is the name up to the first dot of its last part. A folder is read, or one tar, or a name with braces.

    imagenet-1k-wds/_info.json                      names and sample counts of the tars; may be missing
    imagenet-1k-wds/imagenet1k-train-0000.tar       ..., or train/0000.tar
        n03954731_53652.cls                         726
        n03954731_53652.jpg                         or .jpeg, .png, ...
        n03954731_53652.json                        {"label": 726, "filename": "n03954731_53652.JPEG"}
    imagenet-1k-wds/imagenet1k-validation-00.tar    also val, valid; test is not used

    'imagenet-1k-wds/imagenet1k-{train-{0000..1023},validation-{00..63}}.tar'

A label is a whole number: the text of KEY.cls, or "label" in KEY.json. The classes are the wnids in the keys,
or in "filename" in the JSON, if all training images have one and wnids and numbers have the same order.
Otherwise they are the numbers.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from preprocess.containers.entries import Entry
from preprocess.errors import UserError
from preprocess.shared import json_files, progress
from preprocess.shared.image_files import hidden_part, is_image_name, parts_of, walk
from preprocess.sources.braces import expand
from preprocess.sources.cache import cached_members
from preprocess.sources.class_folders import LAYOUT as CLASS_FOLDERS
from preprocess.sources.class_folders import MAX_CLASSES, TEST, part_named
from preprocess.sources.samples import NUMBER, Sample, key_of, labelled_members, samples
from preprocess.sources.tables import Layout, LeftAside, Row, Source, table

SUFFIXES = (".tar", ".tar.gz", ".tgz")
INFO = "_info.json"
PEEKED = 16  # members of a tar by which it is recognised
MOST = 2**17  # archives that braces may stand for
TRIED = 3  # tars of a folder


class _Split(TypedDict):
    filenames: list[str]
    shard_lengths: list[int]


@dataclass(slots=True)
class Wnids:
    """The wnids of the samples, with the number of each."""

    numbers: dict[str, int] = field(default_factory=dict)  # by wnid
    shown: dict[str, str] = field(default_factory=dict)  # by wnid, the first image that has it
    everywhere: bool = True  # whether each training image has one

    def add(self, sample: Sample, image: str, part: str) -> None:
        """Take a sample's wnid in. Raises UserError where it has another number elsewhere."""
        if not sample.wnid:
            self.everywhere &= part != "train"
            return
        number = self.numbers.setdefault(sample.wnid, sample.label)
        first = self.shown.setdefault(sample.wnid, image)
        if number != sample.label:
            raise UserError(
                f"{first} has the label {number} and {image} has {sample.label}, and both have the wnid "
                f"{sample.wnid}: get the archives again"
            )

    def of_numbers(self, numbers: Iterable[int]) -> tuple[str, ...] | None:
        """The wnids of these numbers; None where they are not one for each number, in the same order."""
        of = {number: wnid for wnid, number in self.numbers.items()}
        wnids = [of.get(number, "") for number in sorted(numbers)]
        sound = self.everywhere and len(of) == len(self.numbers) == len(wnids)
        return tuple(wnids) if sound and wnids == sorted(self.numbers) else None


def webdataset(path: Path, cache: Path | None = None) -> Source:
    """Read the labels and places of the images in a WebDataset.

    Args:
        path: a folder, a tar, or a name with braces.
        cache: folder for the lists of the tars' members.

    Raises:
        UserError: a tar is missing or damaged, or labels are missing or contradict each other.
        OSError: no access.
    """
    aside = LeftAside()
    root, names = _archives(path, aside)
    parts = _parts(names, aside)
    lengths = _lengths(root, names, path.is_dir())
    archives = tuple(sorted(parts))
    rows: dict[str, list[Row]] = {"train": [], "val": []}
    wnids, unused = Wnids(), set[str]()
    with closing(progress.counter(" tars", len(archives), "labels")) as bar:
        for number, name in enumerate(archives):
            entries = cached_members(root / name, cache, labelled_members, shown=False)
            _check_length(root / name, entries, lengths.get(name))
            for sample in samples(root / name, name, entries, aside, unused):
                image = f"{name}/{sample.image.name}"
                wnids.add(sample, image, parts[name])
                place = sample.image.offset, sample.image.length
                rows[parts[name]].append(Row(image, number, *place, sample.label))
            bar.update(1)
    classes, tables = _classes(path, rows, wnids)
    return Source(
        kind="WebDataset",
        root=root,
        archives=archives,
        classes=classes,
        class_names=None,
        train=table(tables["train"]),
        val=table(tables["val"]),
        ignored=tuple(aside.ignored),
        hidden=len(aside.hidden),
        notes=(f"members that were not used: .{', .'.join(sorted(unused))}",) if unused else (),
    )


def _archives(path: Path, aside: LeftAside) -> tuple[Path, list[str]]:
    """The folder from which the names of the tars start, and these names.

    Raises:
        UserError: braces name a tar that is not there.
    """
    if path.is_dir():
        return path, list(_tars(path, aside))
    if path.exists():
        return path.parent, [path.name]
    text = str(path)
    fixed = Path(text[: text.index("{")] + "_").parent
    found = list(islice(expand(text), MOST + 1))
    if len(found) > MOST:
        raise UserError(f"{path} stands for more than {MOST} archives: name fewer")
    names = list(dict.fromkeys(str(Path(name).relative_to(fixed)) for name in found))
    missing = [name for name in names if not (fixed / name).is_file()]
    if missing:
        raise UserError(
            f"{path} stands for {len(names)} archives, and {len(missing)} of them are not there, such as "
            f"{fixed / missing[0]}: get them, or name those that are there"
        )
    return fixed, names


def _tars(folder: Path, aside: LeftAside) -> Iterator[str]:
    """Yield the names of the tars in a folder and in its folders of parts; leave all else aside.

    Raises:
        UserError: a folder of a part has folders too.
    """
    for name, _, strange in walk(folder, _is_part_folder):
        if hidden := hidden_part(name):
            aside.hidden.add(hidden)
        elif name.lower().endswith(SUFFIXES) and not strange:
            yield name
        elif name.endswith("/") and name.count("/") > 1:
            raise UserError(
                f"{folder} holds both tars of a WebDataset and {name}: leave only one of them there"
            )
        elif name != INFO and not _is_part_folder(name):
            aside.ignore(name, strange or "not a tar")


def _is_part_folder(name: str) -> bool:
    return name.endswith("/") and name.count("/") == 1 and bool(_part(name))


def _part(name: str) -> str:
    """train, val or test by a word in a name, or in the name of its folder; "" for none."""
    for piece in reversed(parts_of(name)):
        for word in re.split("[^a-z]+", piece.lower()):
            if part := "test" if word in TEST else part_named(word):
                return part
    return ""


def _parts(names: list[str], aside: LeftAside) -> dict[str, str]:
    """The part, train or val, of each tar that is used. Where no name tells it, all are for training."""
    found = {name: _part(name) for name in names}
    if not any(found.values()):
        return dict.fromkeys(names, "train")
    for name, part in found.items():
        if part not in ("train", "val"):
            aside.ignore(name, "a test part is not used" if part else "named neither train nor validation")
    return {name: part for name, part in found.items() if part in ("train", "val")}


def _lengths(root: Path, names: list[str], whole: bool) -> dict[str, int]:
    """The number of samples of each tar as _info.json has it; {} where there is no such file.

    Raises:
        UserError: it is damaged, or names a tar that is not there and `whole` is True.
    """
    try:
        info = json_files.read(root / INFO, dict[str, Any])
        splits = json_files.convert(info.get("splits", {}), dict[str, _Split], str(root / INFO))
    except json_files.MissingError:
        return {}
    except json_files.JsonError as error:
        raise UserError(f"{error}: get it again, or remove it if it is no list of the archives") from None
    used = [split for name, split in splits.items() if _part(name) != "test"]
    lengths = {
        name: length
        for split in used
        for name, length in zip(split["filenames"], split["shard_lengths"], strict=False)
    }
    missing = sorted({name for split in used for name in split["filenames"]} - set(names))
    if whole and missing:
        raise UserError(
            f"{root} lacks {len(missing)} archives that {INFO} names, such as {missing[0]}: get them; to use "
            "only some archives, name them with braces, such as train-{0000..0003}.tar"
        )
    return lengths


def _check_length(archive: Path, entries: list[Entry], expected: int | None) -> None:
    """Raise UserError if an archive has another number of samples than _info.json says."""
    if expected is None:
        return
    found = len({key for entry in entries if not entry.strange and (key := key_of(entry)[0])})
    if found != expected:
        raise UserError(f"{archive} holds {found} samples, and {INFO} says {expected}: get the archive again")


def _classes(
    path: Path, rows: dict[str, list[Row]], wnids: Wnids
) -> tuple[tuple[str, ...], dict[str, list[Row]]]:
    """The classes, and the rows with the rank of their class as the label.

    Raises:
        UserError: there are no or too many classes, or validation has one that training lacks.
    """
    numbers = sorted({row.label for row in rows["train"] or rows["val"]})
    if not numbers:
        raise UserError(f"{path} holds no image with a label: name another place with --config imagenet=PATH")
    if len(numbers) > MAX_CLASSES:
        raise UserError(f"{path} holds {len(numbers)} classes, more than {MAX_CLASSES}: labels are int16")
    rank = {number: label for label, number in enumerate(numbers)}
    if unknown := next((row for row in rows["val"] if row.label not in rank), None):
        raise UserError(
            f"{path} has the label {unknown.label}, of {unknown.name}, in the validation part only: "
            "both parts need the same classes"
        )
    ranked = {part: [row._replace(label=rank[row.label]) for row in found] for part, found in rows.items()}
    return wnids.of_numbers(numbers) or tuple(map(str, numbers)), ranked


def _marks(path: Path) -> list[str]:
    """The first tar in which an image and a label have one key."""
    if path.is_dir():
        with suppress(UserError):
            names = islice(_tars(path, LeftAside()), TRIED)
            return next(([name] for name in names if _has_samples(path / name)), [])
        return []
    named = path.is_file() and path.name.lower().endswith(SUFFIXES)
    return [path.name] if named and _has_samples(path) else []


def _has_samples(archive: Path) -> bool:
    """Whether an image and its label are among the first members; JSON in class folders is no label."""
    images: set[str] = set()
    labelled: set[str] = set()
    with suppress(UserError):  # whoever reads it says what is wrong
        for entry in islice(labelled_members(archive), PEEKED):
            key, extension = key_of(entry)
            if is_image_name(entry.name):
                images.add(key)
            elif extension == "cls" or (
                extension == "json" and NUMBER.match(entry.text) and not any(map(part_named, key.split("/")))
            ):
                labelled.add(key)
    return bool(images & labelled - {""})


LAYOUT = Layout(name="a WebDataset", marks=_marks, read=webdataset, before=(CLASS_FOLDERS.name,))
