"""HTML that holds its images itself, loads nothing, and is readable in light and in dark."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocess.shared.names import shown

STYLE = """:root{color-scheme:light dark;--ink:#222;--paper:#fff;--line:#bbb;--bar:#36c}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--paper:#181818;--line:#555;--bar:#69f}}
body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;
color:var(--ink);background:var(--paper)}
figure{display:inline-block;width:128px;margin:4px;vertical-align:top}figure img{width:128px}
figcaption{font-size:12px;line-height:1.2;overflow-wrap:anywhere}
td,th{text-align:left;padding:2px 1.5em 2px 0;vertical-align:top}
td:not(:last-child){white-space:nowrap}td:last-child{overflow-wrap:anywhere}
th{border-bottom:1px solid var(--line)}
i{display:inline-block;height:.8em;background:var(--bar)}"""
WIDEST = 320  # pixels of a bar


def escaped(text: object) -> str:
    """The text as HTML shows it."""
    return html.escape(shown(text))


def document(title: str, body: str) -> str:
    """A whole page; `body` is HTML."""
    head = f'<meta charset="utf-8"><title>{escaped(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en">{head}<h1>{escaped(title)}</h1>{body}</html>\n'


def table(rows: Iterable[tuple[Any, ...]], head: tuple[str, ...] = ()) -> str:
    """An HTML table. Cells are escaped; the names in `head` are not."""
    cells = ("".join(f"<td>{escaped(cell)}</td>" for cell in row) for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    first = f"<tr>{names}</tr>" if head else ""
    return f"<table>{first}" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def bars(rows: Sequence[tuple[str, int]]) -> str:
    """A table of names and counts, each count with a bar."""
    most = max((count for _, count in rows), default=1) or 1
    lines = (
        f"<tr><td>{escaped(name)}</td><td>{count:,}</td>"
        f'<td><i style="width:{WIDEST * count / most:.0f}px"></i></td></tr>'
        for name, count in rows
    )
    return f"<table>{''.join(lines)}</table>"


def embedded(image: NDArray[np.uint8]) -> str:
    """An image, uint8 [S, S, 3], as a data URL with a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def figure(image: NDArray[np.uint8], caption: str) -> str:
    """A small image with a caption."""
    return f'<figure><img src="{embedded(image)}" alt=""><figcaption>{escaped(caption)}</figcaption></figure>'
