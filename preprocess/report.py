"""Stage 5: an HTML page about the store: classes, sizes, what was left aside, sample images, repairs, times.

With --classes, another page is written instead: for each of these classes up to 48 training images, to check
the labels by eye.

The pages hold their images themselves and load nothing from the network.

Usage: python -m preprocess.report --store PATH                    (writes PATH.html)
       python -m preprocess.report --store PATH --classes tench    (writes PATH.classes.html)
"""

import argparse
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from preprocess import stage
from preprocess.errors import UserError
from preprocess.page.cloud import cloud
from preprocess.page.html import bars, document, embedded, escaped, figure, table
from preprocess.plan import SPLITS, aside_path, manifest, work_folder
from preprocess.shards.records import SIDES, Record
from preprocess.shared import json_files
from preprocess.shared.files import write_atomically, write_json
from preprocess.shared.program import words
from preprocess.sources.tables import Aside
from preprocess.store import Split, Store, attributes, open_store

SHEET, CLOUD = 48, 1500  # sample images, sample pixels
FEW, ENDS, BINS = 30, 5, 12  # classes that are listed one by one; smallest and largest ones; bars
LINE = re.compile(r"(\S+ \S+),\d+ INFO (.*) \[([\d.]+ s)\]")  # of a stage's log: time, summary, seconds
ALL = "all"


class _Facts(TypedDict):
    source: dict[str, str]
    shard_length: int
    versions: dict[str, str]


class _Listed(TypedDict):
    repairs: dict[str, list[str]]
    skipped: dict[str, str]


def report_path(store: Path) -> Path:
    """The page, next to the store. Two stores of one folder never have the same."""
    return store.with_name(f"{store.name}.html")


def classes_path(store: Path) -> Path:
    """The page with the images of single classes."""
    return store.with_name(f"{store.name}.classes.html")


def splits(store: Store) -> dict[str, Split]:
    """The parts that have images, with what they are for. The first one is shown."""
    parts = {"training": store.train, "validation": store.val}
    return {name: part for name, part in parts.items() if len(part)}


def first_split(store: Store) -> Split:
    """The training images; of a set for evaluation alone its images."""
    return next(iter(splits(store).values()))


def contact_sheet(store: Store, chosen: Sequence[int]) -> str:
    """Images of the first split with the names of their classes, HTML."""
    names, part = store.class_names or store.classes, first_split(store)
    indices = np.sort(np.array(chosen, dtype=np.int64))
    images = part.read(indices)
    return "".join(
        figure(image, names[int(part.labels[index])])
        for index, image in zip(indices.tolist(), images, strict=True)
    )


def by_class(store: Store) -> str:
    """The number of images of each class: listed for few classes, else their distribution and its ends."""
    names = [_name(store, index) for index in range(len(store.classes))]
    counts = [np.bincount(part.labels, minlength=len(names)).tolist() for part in splits(store).values()]
    head = ("class", *(f"{name} images" for name in splits(store)))
    rows = list(zip(names, *counts, strict=True))
    if len(rows) <= FEW:
        return table(rows, head)
    rows.sort(key=lambda row: (row[1], row[0]))
    least = rows[0][1]
    width = (rows[-1][1] - least) // BINS + 1
    numbers = np.bincount((np.array(counts[0]) - least) // width).tolist()
    lows = [least + width * number for number in range(len(numbers))]
    spread = [(f"{low:,} to {low + width - 1:,}", number) for low, number in zip(lows, numbers, strict=True)]
    ends = (*rows[:ENDS], *rows[-ENDS:])
    return (
        f"<p>Classes by their number of {next(iter(splits(store)))} images:</p>{bars(spread)}"
        f"<p>The {ENDS} smallest classes and the {ENDS} largest:</p>{table(ends, head)}"
    )


def _name(store: Store, index: int) -> str:
    """A class in words, with its own name where that is another."""
    name = store.classes[index]
    return f"{store.class_names[index]} ({name})" if store.class_names else name


def sides(store: Path) -> str:
    """The shorter sides of the original images, from the records of the shards."""
    found = []
    for path in sorted((work_folder(store) / "records").glob("*/*.json")):
        try:
            found.append(json_files.read(path, Record))
        except json_files.JsonError:  # verify tells of damage
            continue
    kept = [r.sides for r in found if r.sides and len(r.sides.counts) == len(SIDES) + 1]
    if not kept:
        return "<p>Not recorded: the store was made by an earlier version.</p>"
    counts = np.sum([side.counts for side in kept], axis=0).tolist()
    ends = [f"{low} to {high - 1}" for low, high in pairwise(SIDES)]
    bins = list(zip([f"below {SIDES[0]}", *ends, f"{SIDES[-1]} and more"], counts, strict=True))
    seen = [number for number, count in enumerate(counts) if count]
    rows = bins[seen[0] : seen[-1] + 1]
    least, most = min(side.least for side in kept), max(side.most for side in kept)
    missing = sum(record.pictures for record in found) - sum(counts)
    unknown = f" Of {missing:,} images it was not recorded." if missing else ""
    return f"<p>In pixels, before the resize: {least} to {most}.{unknown}</p>{bars(rows)}"


def left_aside(store: Path) -> str:
    """What stage 1 took for no image of a class, with reasons."""
    try:
        aside = json_files.read(aside_path(store), Aside)
    except json_files.JsonError:
        return "<p>Not recorded: the store was made by an earlier version.</p>"
    rows = []
    for why, listed in aside["reasons"].items():
        more = ", ..." if listed["count"] > len(listed["examples"]) else ""
        rows.append((why, f"{listed['count']:,}", ", ".join(listed["examples"]) + more))
    if aside["hidden"]:
        rows.append(("hidden", f"{aside['hidden']:,}", ""))
    return table(rows, ("reason", "entries", "examples")) if rows else "<p>Nothing.</p>"


def times(store: Path) -> list[tuple[str, str, str, str]]:
    """For each stage, from its log: name, time of its end, seconds taken, summary."""
    found = []
    for log in sorted((work_folder(store) / "logs").glob("*.log"), key=lambda log: log.stat().st_mtime):
        ends = LINE.findall(log.read_text(encoding="utf-8", errors="replace"))
        if ends:
            when, summary, took = ends[-1]
            found.append((log.stem, when, took, summary[:400]))
    return found


def repaired(path: Path) -> str:
    """The repairs and the images that were left out, with examples."""
    rows: list[tuple[Any, ...]] = []
    for split in SPLITS:
        listed = attributes(path / split, _Listed, path)
        for repair, names in listed["repairs"].items():
            rows.append((split, repair, len(names), ", ".join(names[:5]) + (", ..." if names[5:] else "")))
        rows += [(split, f"left out: {why}", 1, name) for name, why in listed["skipped"].items()]
    head = ("split", "repair", "images", "examples")
    return table(rows, head) if rows else "<p>No image needed a repair.</p>"


def statistics(store: Store, generator: np.random.Generator) -> str:
    """The mean image, and the colours of the training images with their principal components."""
    number = len(store.train)
    seen = store.train.read(np.sort(generator.choice(number, min(50, number), False)))
    pixels = generator.choice(seen.reshape(-1, 3), CLOUD)
    rows = (
        (f"component {n}", f"standard deviation {np.sqrt(max(value, 0)):.2f}, direction {axis.round(3)}")
        for n, (value, axis) in enumerate(
            zip(store.eigenvalues.tolist(), store.eigenvectors.T, strict=True), start=1
        )
    )
    mean = embedded(np.rint(store.mean).astype(np.uint8))
    return (
        f'<h2>Mean image</h2><img src="{mean}" alt="the mean image">'
        f"<h2>Colours</h2><p>{CLOUD} random pixels in the RGB cube; the lines are the principal components "
        f"1 to 3, two standard deviations to each side.</p>"
        f"{cloud(pixels, store.eigenvalues, store.eigenvectors)}{table(rows)}"
    )


def page(path: Path) -> str:
    """The page of a finished store. Raises StoreError."""
    store = open_store(path)
    generator = np.random.default_rng(0)
    facts, number = attributes(path, _Facts, path), len(first_split(store))
    samples = generator.choice(number, min(SHEET, number), replace=False).tolist()
    counts = [
        ("source", facts["source"].get("kind", "")),
        ("classes", len(store.classes)),
        *((f"{name} images", f"{len(part):,}") for name, part in splits(store).items()),
        ("image size", store.image_size),
        ("EXIF orientation", "applied" if store.upright else "ignored"),
        ("images a shard", facts["shard_length"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        ("fingerprint", store.fingerprint),
    ]
    return document(
        path.name,
        f"<h2>Images by class</h2>{by_class(store)}"
        f"<h2>Shorter sides of the original images</h2>{sides(path)}"
        f"<h2>Left aside</h2>{left_aside(path)}"
        f"<h2>The store</h2>{table(counts)}"
        f"<h2>Some of the images</h2>{contact_sheet(store, samples)}"
        f"{statistics(store, generator) if len(store.train) else ''}"
        f"<h2>Repairs</h2>{repaired(path)}"
        f"<h2>Stages</h2>{table(times(path), ('stage', 'ended', 'took', 'summary'))}",
    )


def find_classes(store: Store, asked: Sequence[str]) -> list[int]:
    """The indices of the classes that are meant, in their order.

    Args:
        store: the store.
        asked: names of classes, one of a class's words (all classes that have it), indices, or "all".

    Raises:
        UserError: one of them is no class.
    """
    if ALL in asked and ALL not in store.classes:
        return list(range(len(store.classes)))
    meant: dict[str, list[int]] = {}
    for index, name in enumerate(store.class_names or store.classes):
        for word in {word.strip().lower() for word in name.split(",")}:
            meant.setdefault(word, []).append(index)
    found: set[int] = set()
    for text in asked:
        if text in store.classes:
            found.add(store.classes.index(text))
        elif text.lower() in meant:
            found |= set(meant[text.lower()])
        elif text.isdecimal() and int(text) < len(store.classes):
            found.add(int(text))
        else:
            raise UserError(
                f"{store.path} has no class {text}: name one such as {_name(store, 0)}, an index from 0 to "
                f"{len(store.classes) - 1}, or {ALL}"
            )
    return sorted(found)


def classes_page(path: Path, asked: Sequence[str]) -> tuple[str, int]:
    """The page with a contact sheet for each of these classes, and their number. Raises as `find_classes`."""
    store = open_store(path)
    generator = np.random.default_rng(0)
    chosen = find_classes(store, asked)
    sections = []
    for index in chosen:
        own = np.flatnonzero(first_split(store).labels == index)
        samples = generator.choice(own, min(SHEET, len(own)), replace=False).tolist()
        sheet = contact_sheet(store, samples) if samples else "<p>No image.</p>"
        sections.append(f"<h2>{index}: {escaped(_name(store, index))}, {len(own):,} images</h2>{sheet}")
    return document(f"{path.name}: images by class", "".join(sections)), len(chosen)


def report(arguments: argparse.Namespace) -> str:
    """Write a page; return a summary.

    Raises:
        StoreError: the store is not finished.
        UserError: as `find_classes`.
    """
    if arguments.classes:
        target = classes_path(arguments.store)
        text, count = classes_page(arguments.store, arguments.classes)
        write_atomically(target, text.encode())
        return f"{target} shows images of {count} {'class' if count == 1 else 'classes'}"
    target = report_path(arguments.store)
    write_atomically(target, page(arguments.store).encode())
    write_json(manifest(arguments.store, "report"), {"page": target.name})
    return f"{target} shows what the store holds"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    command = stage.parser(__doc__)
    command.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="write PATH.classes.html instead: one page with a sheet of images for each of these classes, by "
        f"name (n01440764), word (tench) or index (0); {ALL}: every class",
    )
    return command


if __name__ == "__main__":
    stage.run(parser().parse_args(words()), report)
