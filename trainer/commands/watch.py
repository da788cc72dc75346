"""The live page: what it shows of a run, and its server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tornado.httpserver
import tornado.netutil
import tornado.web
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs
from safetensors import SafetensorError, safe_open

from trainer.errors import UserError
from trainer.model.network import TOWERS
from trainer.runs import checkpoint, run_folder
from trainer.runs.log import read_log

if TYPE_CHECKING:
    from trainer.watch import Arguments

POINTS = 1000
"""The largest number of points of a curve on the page; more are averaged."""
COLUMNS, SCALE = 16, 3
"""Filters in a row, as in the paper's Figure 3; pixels of the PNG for each weight, in both directions."""


def thin(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[float]]:
    """The values of the lines that have all `names`, by name; at most POINTS each, as means of neighbours."""
    rows = [[line[name] for name in names] for line in lines if all(name in line for name in names)]
    if not rows:
        return {name: [] for name in names}
    table = np.array(rows, float)
    parts = np.array_split(table, min(POINTS, len(table)))
    means = np.stack([part.mean(0) for part in parts])
    return {name: [round(v, 6) for v in column] for name, column in zip(names, means.T.tolist(), strict=True)}


def status(run: Path) -> dict[str, Any]:
    """Everything that the page shows of one run, read from its files now."""
    config = run_folder.read_config(run)
    lines = read_log(run / run_folder.LOG)
    training = [line for line in lines if "images_per_second" in line]
    starts = [line for line in lines if "last_step" in line]
    last = lines[-1] if lines else {}
    complete = (run / run_folder.COMPLETE).exists()
    speed = training[-1]["images_per_second"] if training else None
    batch, end = config.optim.batch_size or 0, starts[-1]["last_step"] if starts else None
    left = (end - last["step"]) * batch / speed if speed and end is not None else None
    return {
        "name": run.name,
        "recipe": config.recipe,
        "complete": complete,
        "step": last.get("step", 0),
        "last_step": end,
        "epoch": training[-1]["epoch"] if training else 0,
        "epochs": config.optim.epochs,
        "images_per_second": speed,
        "seconds_left": 0 if complete else left,
        "seconds_since_line": round(time.time() - last["time"], 1) if "time" in last else None,
        "ranks": starts[-1]["ranks"] if starts else None,
        "device": starts[-1]["device"] if starts else None,
        "checkpoint": last_checkpoint(run),
        "training": thin(training, ("epoch", "loss", "lr", "images_per_second")),
        "validation": thin(lines, ("epoch", "val_top1_error", "val_top5_error")),
    }


def last_checkpoint(run: Path) -> str | None:
    """The name of the newest checkpoint."""
    with contextlib.suppress(OSError):
        return (run / "checkpoints" / checkpoint.LATEST).read_text().strip()
    return None


def filters(run: Path) -> bytes | None:
    """The conv1 filters of the newest checkpoint as a PNG, tower a above tower b; None without a checkpoint.

    Each filter, 11x11x3, is scaled from its own range to 0..255.
    """
    name = last_checkpoint(run)
    rows: list[NDArray[np.uint8]] = []
    for tower in TOWERS if name else ():
        path = run / "checkpoints" / str(name) / f"tower_{tower}.safetensors"
        try:
            with safe_open(path, "numpy") as file:
                weight_FCHW = file.get_tensor("conv1.weight")
        except (OSError, SafetensorError):  # there is one tower, or the checkpoint was removed meanwhile
            continue
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
        found = [await loop.run_in_executor(None, _status_or_error, run) for run in self.settings["runs"]]
        self.write(json.dumps({"runs": found}))


def _status_or_error(run: Path) -> dict[str, Any]:
    """A run's status, or the message of the error, which the page shows."""
    try:
        return status(run)
    except (UserError, OSError) as error:
        return {"name": run.name, "error": str(error)}


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
