"""The server of the live page, and the filters that it shows."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tornado.httpserver
import tornado.netutil
import tornado.web
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs

from trainer.commands.live import LiveRuns
from trainer.errors import UserError
from trainer.runs import checkpoint, run_folder
from trainer.runs.filters import conv1_filters

if TYPE_CHECKING:
    from trainer.watch import Arguments

COLUMNS, SCALE = 16, 3
"""Filters in a row, as in the paper's Figure 3; pixels of the PNG for each weight, in both directions."""


def filters(run: Path) -> bytes | None:
    """The conv1 filters of the newest checkpoint as a PNG, tower a above tower b; None without a checkpoint.

    Each filter, 11x11x3, is scaled from its own range to 0..255.
    """
    name = checkpoint.named(run / checkpoint.FOLDER, checkpoint.LATEST)
    rows: list[NDArray[np.uint8]] = []
    for weight_FCHW in conv1_filters(run / checkpoint.FOLDER / name).values() if name else ():
        if rows:
            rows.append(np.full((3, rows[0].shape[1], 3), 255, np.uint8))
        rows.append(_grid(weight_FCHW))
    if not rows:
        return None
    image = np.concatenate(rows).repeat(SCALE, 0).repeat(SCALE, 1)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _grid(weight_FCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Arrange filters in rows of COLUMNS, uint8 [height, width, 3], with a white line after each."""
    low = weight_FCHW.min((1, 2, 3), keepdims=True)
    spread = np.maximum(weight_FCHW.max((1, 2, 3), keepdims=True) - low, 1e-12)
    tiles = np.rint(255 * (weight_FCHW - low) / spread).astype(np.uint8).transpose(0, 2, 3, 1)
    tiles = np.pad(tiles, ((0, -len(tiles) % COLUMNS), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows, side = len(tiles) // COLUMNS, tiles.shape[1]
    return tiles.reshape(rows, COLUMNS, side, side, 3).swapaxes(1, 2).reshape(rows * side, COLUMNS * side, 3)


class Handler(tornado.web.RequestHandler):
    """A request from this machine; any other is refused."""

    def prepare(self) -> None:
        # DNS rebinding: another site can resolve its name to 127.0.0.1; its page's requests have that name.
        if self.request.host_name not in ("127.0.0.1", "localhost"):
            raise tornado.web.HTTPError(403)
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline' data: blob:")


class Page(Handler):
    """watch.html."""

    def get(self) -> None:
        self.write((Path(__file__).with_suffix(".html")).read_text())


class Plotly(Handler):
    """Plotly's JavaScript, from the installed package."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.set_header("Cache-Control", "max-age=86400")
        self.write(get_plotlyjs())


class State(Handler):
    """The status of all runs as JSON."""

    async def get(self) -> None:
        loop = asyncio.get_running_loop()
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.write(await loop.run_in_executor(None, self.settings["live"].body))


class Filters(Handler):
    """The filters of the run with this index as a PNG."""

    async def get(self, index: str) -> None:
        watched = self.settings["runs"]
        image = None
        if int(index) < len(watched):
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(None, filters, watched[int(index)])
        if image is None:
            raise tornado.web.HTTPError(404)
        self.set_header("Content-Type", "image/png")
        self.write(image)


async def serve(watched: Sequence[Path], port: int) -> None:
    """Print the address and serve the page until cancelled."""
    application = tornado.web.Application(
        [("/", Page), ("/plotly.js", Plotly), ("/state", State), (r"/filters/(\d+)", Filters)],
        runs=list(watched),
        live=LiveRuns(watched),
        log_function=lambda handler: None,
        compress_response=True,
    )
    try:
        sockets = tornado.netutil.bind_sockets(port, "127.0.0.1")
    except OSError as error:
        raise UserError(
            f"Port {port} is not free ({error.strerror}); name another --port, or --port 0."
        ) from None
    server = tornado.httpserver.HTTPServer(application)
    server.add_sockets(sockets)
    print(f"http://127.0.0.1:{sockets[0].getsockname()[1]} shows {', '.join(map(str, watched))}", flush=True)
    await asyncio.Event().wait()


def run(arguments: Arguments) -> None:
    """Serve the page until Ctrl-C."""
    watched = arguments.run or (run_folder.latest(),)
    for folder in watched:
        run_folder.read_config(folder)  # raises UserError here and not on the page
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(watched, arguments.port))
