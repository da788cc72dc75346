"""Stage 5: one page to look at, beside the store: what is in it, what was repaired, how its colours lie.

The page holds its pictures itself and asks nothing of the network.

Usage: python -m preprocess.report --store PATH    (writes PATH with the suffix .html)
"""

import argparse
import base64
import html
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocess import stage
from preprocess.files import write_atomically, write_json
from preprocess.plan import SPLITS, manifest, work_folder
from preprocess.store import Store, open_store

SHEET, CLOUD = 48, 1500  # pictures, pixels
VIEW = np.array([[0.9, -0.1], [0.1, -0.9], [-0.45, 0.4]])  # where R, G and B point on the page, y down
COLOURS = ("#c33", "#282", "#33c")
STYLE = """body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
figure{display:inline-block;width:128px;margin:4px;vertical-align:top}figure img{width:128px}
figcaption{font-size:12px;line-height:1.2}td,th{text-align:left;padding:2px 1.5em 2px 0;vertical-align:top}"""


def report_path(store: Path) -> Path:
    """The page beside the store."""
    return store.with_suffix(".html")


def embedded(image: NDArray[np.uint8]) -> str:
    """A picture, uint8 [S, S, 3], as the address that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def table(rows: Iterable[tuple[Any, ...]]) -> str:
    """Rows of a table; everything in them is text, whatever it looks like."""
    cells = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def contact_sheet(store: Store, generator: np.random.Generator) -> str:
    """Random training pictures with the names of their classes."""
    count = min(SHEET, len(store.train))
    chosen = np.sort(generator.choice(len(store.train), count, replace=False))
    names = store.class_names or store.classes
    figures = []
    for index, image in zip(chosen.tolist(), store.train.read(chosen), strict=True):
        name = html.escape(names[int(store.train.labels[index])])
        figures.append(
            f'<figure><img src="{embedded(image)}" alt=""><figcaption>{name}</figcaption></figure>'
        )
    return "".join(figures)


def cloud(pixels: NDArray[np.uint8], store: Store) -> str:
    """Pixels [N, 3] in the cube of red, green and blue, with the three axes two deviations long, as SVG."""
    center = pixels.mean(axis=0)
    marks = []

    def place(point: NDArray[np.float64]) -> tuple[float, float]:
        x, y = (point - 127.5) @ VIEW + (250, 250)
        return round(float(x), 1), round(float(y), 1)

    def line(begin: NDArray[np.float64], end: NDArray[np.float64], style: str) -> None:
        (x1, y1), (x2, y2) = place(begin), place(end)
        marks.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {style}/>')

    for channel, colour in enumerate(COLOURS):
        line(np.zeros(3), 255.0 * np.eye(3)[channel], f'stroke="{colour}" stroke-width="1"')
    for pixel in pixels:
        x, y = place(pixel.astype(float))
        red, green, blue = pixel.tolist()
        marks.append(f'<circle cx="{x}" cy="{y}" r="2" fill="rgb({red},{green},{blue})"/>')
    for value, axis in zip(store.eigenvalues, store.eigenvectors.T, strict=True):
        reach = 2 * np.sqrt(max(float(value), 0)) * axis
        line(center - reach, center + reach, 'stroke="#000" stroke-width="2.5"')
    return f'<svg viewBox="0 0 500 500" width="500" role="img">{"".join(marks)}</svg>'


def times(store: Path) -> list[tuple[str, str]]:
    """When each stage last said something, and what, from its log."""
    found = []
    for log in sorted((work_folder(store) / "logs").glob("*.log"), key=lambda log: log.stat().st_mtime):
        lines = [line for line in log.read_text(errors="replace").splitlines() if " INFO " in line]
        if lines:
            when, _, said = lines[-1].partition(" INFO ")
            found.append((log.stem, f"{when.split(',')[0]}: {said[:400]}"))
    return found


def page(path: Path) -> str:
    """The whole page of a finished store."""
    store = open_store(path)
    generator = np.random.default_rng(0)
    facts = json.loads((path / "zarr.json").read_text())["attributes"]
    seen = store.train.read(np.sort(generator.choice(len(store.train), min(50, len(store.train)), False)))
    pixels = generator.choice(seen.reshape(-1, 3), CLOUD)
    repairs: list[tuple[Any, ...]] = []
    for split in SPLITS:
        listed = json.loads((path / split / "zarr.json").read_text())["attributes"]
        for repair, names in listed["repairs"].items():
            repairs.append((split, repair, len(names), ", ".join(names[:5]) + (", ..." if names[5:] else "")))
        repairs += [(split, f"left out: {why}", 1, name) for name, why in listed["skipped"].items()]
    counts = [
        ("source", facts["source"]["kind"]),
        ("classes", len(store.classes)),
        *((f"{split} pictures", f"{facts['counts'][split]:,}") for split in SPLITS),
        ("image size", store.image_size),
        ("pictures a shard", facts["shard_length"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        ("fingerprint", store.fingerprint),
        *(
            (f"axis {number}", f"standard deviation {np.sqrt(max(value, 0)):.2f}, direction {axis.round(3)}")
            for number, (value, axis) in enumerate(
                zip(store.eigenvalues.tolist(), store.eigenvectors.T, strict=True), 1
            )
        ),
    ]
    mean = embedded(np.rint(store.mean).astype(np.uint8))
    name = html.escape(path.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
        f"<h1>{name}</h1>{table(counts)}<h2>Training pictures</h2>{contact_sheet(store, generator)}"
        f'<h2>Mean image</h2><img src="{mean}" alt="the mean image">'
        f"<h2>Colours</h2><p>{CLOUD} random pixels in the cube of red, green and blue; in black the three "
        f"axes, two standard deviations to each side.</p>{cloud(pixels, store)}"
        f"<h2>Repairs</h2>{table(repairs) if repairs else '<p>None was needed.</p>'}"
        f"<h2>Stages</h2>{table(times(path))}</html>\n"
    )


def report(arguments: argparse.Namespace) -> str:
    """Write the page; raises StoreError when the store is not finished."""
    target = report_path(arguments.store)
    write_atomically(target, [page(arguments.store).encode()])
    write_json(manifest(arguments.store, "report"), {"page": target.name})
    return f"{target} shows what is in the store"


if __name__ == "__main__":
    stage.run(stage.parser(__doc__).parse_args(), report)
