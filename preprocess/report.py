"""Stage 5: an HTML page about the store: sample images, mean image, colours, repairs, times of the stages.

The page holds its images itself and loads nothing from the network.

Usage: python -m preprocess.report --store PATH    (writes PATH.html)
"""

import argparse
import base64
import html
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocess import stage
from preprocess.plan import SPLITS, manifest, work_folder
from preprocess.shared.files import write_atomically, write_json
from preprocess.shared.names import shown
from preprocess.shared.program import words
from preprocess.store import Store, attributes, open_store

SHEET, CLOUD = 48, 1500  # sample images, sample pixels
VIEW = np.array([[0.9, -0.1], [0.1, -0.9], [-0.45, 0.4]])  # directions of R, G and B on the page, y down
COLOURS = {"red": "#c33", "green": "#282", "blue": "#33c"}
LINE = re.compile(r"(\S+ \S+),\d+ INFO (.*) \[([\d.]+ s)\]")  # of a stage's log: time, summary, seconds
STYLE = """body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
figure{display:inline-block;width:128px;margin:4px;vertical-align:top}figure img{width:128px}
figcaption{font-size:12px;line-height:1.2}td,th{text-align:left;padding:2px 1.5em 2px 0;vertical-align:top}
td:not(:last-child){white-space:nowrap}td:last-child{overflow-wrap:anywhere}
th{border-bottom:1px solid #bbb}"""


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


def escaped(text: object) -> str:
    """The text as HTML shows it."""
    return html.escape(shown(text))


def embedded(image: NDArray[np.uint8]) -> str:
    """An image, uint8 [S, S, 3], as a data URL with a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def table(rows: Iterable[tuple[Any, ...]], head: tuple[str, ...] = ()) -> str:
    """An HTML table. Cells are escaped; the names in `head` are not."""
    cells = ("".join(f"<td>{escaped(cell)}</td>" for cell in row) for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    first = f"<tr>{names}</tr>" if head else ""
    return f"<table>{first}" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def contact_sheet(store: Store, generator: np.random.Generator) -> str:
    """Random training images with the names of their classes, HTML."""
    count = min(SHEET, len(store.train))
    chosen = np.sort(generator.choice(len(store.train), count, replace=False))
    names = store.class_names or store.classes
    figures = []
    for index, image in zip(chosen.tolist(), store.train.read(chosen), strict=True):
        name = escaped(names[int(store.train.labels[index])])
        figures.append(
            f'<figure><img src="{embedded(image)}" alt=""><figcaption>{name}</figcaption></figure>'
        )
    return "".join(figures)


def cloud(pixels: NDArray[np.uint8], store: Store) -> str:
    """An SVG of pixels, uint8 [N, 3], in the RGB cube, with the principal components two deviations long."""
    center = pixels.mean(axis=0)
    corners = 255.0 * np.array(list(np.ndindex(2, 2, 2)))
    marks = []

    def place(point: NDArray[np.float64]) -> tuple[float, float]:
        x, y = point @ VIEW * 1.6
        return round(float(x), 1), round(float(y), 1)

    def line(begin: NDArray[np.float64], end: NDArray[np.float64], style: str) -> None:
        (x1, y1), (x2, y2) = place(begin), place(end)
        marks.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {style}/>')

    def label(point: NDArray[np.float64], text: str, colour: str) -> None:
        x, y = place(point)
        marks.append(f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="middle">{text}</text>')

    for begin in corners:
        for end in corners:
            if np.abs(end - begin).sum() == 255 and begin.sum() < end.sum():
                line(begin, end, 'stroke="#ddd"')
    for channel, (name, colour) in enumerate(COLOURS.items()):
        edge = 255.0 * np.eye(3)[channel]
        line(np.zeros(3), edge, f'stroke="{colour}" stroke-width="2"')
        label(1.1 * edge, name, colour)
    for pixel in pixels:
        x, y = place(pixel.astype(float))
        red, green, blue = pixel.tolist()
        marks.append(f'<circle cx="{x}" cy="{y}" r="2" fill="rgb({red},{green},{blue})"/>')
    for number, (value, axis) in enumerate(zip(store.eigenvalues, store.eigenvectors.T, strict=True), 1):
        reach = 2 * np.sqrt(max(float(value), 0)) * axis
        for style in ('stroke="#fff" stroke-width="6"', 'stroke="#000" stroke-width="2.5"'):
            line(center - reach, center + reach, style)
        label(center + reach + 12 * axis, str(number), "#000")
    seen = np.array([place(corner) for corner in corners])
    left, top = seen.min(axis=0) - 50
    width, height = np.ptp(seen, axis=0) + 100
    box = f"{left:.0f} {top:.0f} {width:.0f} {height:.0f}"
    return f'<svg viewBox="{box}" width="{width:.0f}" role="img">{"".join(marks)}</svg>'


def times(store: Path) -> list[tuple[str, str, str, str]]:
    """For each stage, from its log: name, time of its end, seconds taken, summary."""
    found = []
    for log in sorted((work_folder(store) / "logs").glob("*.log"), key=lambda log: log.stat().st_mtime):
        ends = LINE.findall(log.read_text(encoding="utf-8", errors="replace"))
        if ends:
            when, summary, took = ends[-1]
            found.append((log.stem, when, took, summary[:400]))
    return found


def page(path: Path) -> str:
    """The page of a finished store. Raises StoreError."""
    store = open_store(path)
    generator = np.random.default_rng(0)
    facts = attributes(path, _Facts, path)
    seen = store.train.read(np.sort(generator.choice(len(store.train), min(50, len(store.train)), False)))
    pixels = generator.choice(seen.reshape(-1, 3), CLOUD)
    repairs: list[tuple[Any, ...]] = []
    for split in SPLITS:
        listed = attributes(path / split, _Listed, path)
        for repair, names in listed["repairs"].items():
            repairs.append((split, repair, len(names), ", ".join(names[:5]) + (", ..." if names[5:] else "")))
        repairs += [(split, f"left out: {why}", 1, name) for name, why in listed["skipped"].items()]
    counts = [
        ("source", facts["source"].get("kind", "")),
        ("classes", len(store.classes)),
        *(
            (f"{split} images", f"{len(images):,}")
            for split, images in (("train", store.train), ("val", store.val))
        ),
        ("image size", store.image_size),
        ("EXIF orientation", "applied" if store.upright else "ignored"),
        ("images a shard", facts["shard_length"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        ("fingerprint", store.fingerprint),
        *(
            (
                f"component {number}",
                f"standard deviation {np.sqrt(max(value, 0)):.2f}, direction {axis.round(3)}",
            )
            for number, (value, axis) in enumerate(
                zip(store.eigenvalues.tolist(), store.eigenvectors.T, strict=True), 1
            )
        ),
    ]
    head = ("split", "repair", "images", "examples")
    repaired = table(repairs, head) if repairs else "<p>No image needed a repair.</p>"
    mean = embedded(np.rint(store.mean).astype(np.uint8))
    name = escaped(path.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
        f"<h1>{name}</h1>{table(counts)}<h2>Training images</h2>{contact_sheet(store, generator)}"
        f'<h2>Mean image</h2><img src="{mean}" alt="the mean image">'
        f"<h2>Colours</h2><p>{CLOUD} random pixels in the RGB cube; in black the principal components "
        f"1 to 3, two standard deviations to each side.</p>{cloud(pixels, store)}"
        f"<h2>Repairs</h2>{repaired}"
        f"<h2>Stages</h2>{table(times(path), ('stage', 'ended', 'took', 'summary'))}</html>\n"
    )


def report(arguments: argparse.Namespace) -> str:
    """Write the page; return a summary. Raises StoreError when the store is not finished."""
    target = report_path(arguments.store)
    write_atomically(target, page(arguments.store).encode())
    write_json(manifest(arguments.store, "report"), {"page": target.name})
    return f"{target} shows what the store holds"


if __name__ == "__main__":
    stage.run(stage.parser(__doc__).parse_args(words()), report)
