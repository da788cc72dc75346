"""The recording and the drawing of a timeline."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from preprocess.shared.files import write_atomically
from trainer.config import Config, HardwareConfig, OptimizerConfig
from trainer.errors import require_output
from trainer.figures import style
from trainer.parallel.agreement import on_root
from trainer.parallel.ending import abort_all_on_error
from trainer.parallel.mpi_transport import OverMpi
from trainer.parallel.topology import Topology, init_topology, world
from trainer.parallel.transport import Pending
from trainer.training.step import Trainer

if TYPE_CHECKING:
    from trainer.timeline import Arguments

CLASSES = 1000
MAIN, REDUCTIONS = 0, 1


class Span(NamedTuple):
    """One phase of a rank, in seconds since the barrier at the start."""

    row: int
    name: str
    waiting: bool
    begin: float
    end: float


class HostClock:
    """Times at which this thread comes to a place."""

    def moment(self) -> float:
        """Now."""
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        """Between two moments."""
        return end - begin


class GpuClock:
    """Times at which the GPU comes to a place: the host only launches its work, and is ahead of it."""

    def moment(self) -> torch.cuda.Event:
        """After the work that was launched so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Between two moments; waits for the second."""
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


class Recorder:
    """Records the phases that a trainer marks, and its all-reduces where a thread of their own runs them."""

    def __init__(self, trainer: Trainer) -> None:
        self._clock: Any = GpuClock() if trainer.topology.device.type == "cuda" else HostClock()
        self._marks: list[tuple[str, bool, Any]] = []
        self._reductions: list[Span] = []
        trainer.topology.world.Barrier()
        self._start, self._first = time.perf_counter(), self._clock.moment()
        trainer.network.mark = self.mark
        if isinstance(trainer.transport, OverMpi):
            self._record_reductions(trainer.transport)

    def mark(self, phase: str, waiting: bool = False) -> None:
        """Begin a phase and end the one before. waiting: it is communication."""
        self._marks.append((phase, waiting, self._clock.moment()))

    def spans(self) -> list[Span]:
        """All phases between two marks, and the all-reduces."""
        at = [self._clock.seconds(self._first, moment) for _, _, moment in self._marks]
        phases = zip(self._marks, pairwise(at), strict=False)
        return [Span(MAIN, name, waiting, *ends) for (name, waiting, _), ends in phases] + self._reductions

    def _now(self) -> float:
        """Seconds since the barrier, on the host."""
        return time.perf_counter() - self._start

    def _record_reductions(self, transport: OverMpi) -> None:
        """Replace the transport's `reduce` by one that records its time."""
        reduce = transport.reduce

        def recorded(flat: Tensor) -> None:
            begin = self._now()
            reduce(flat)
            name = f"all-reduce of {flat.nbytes / 1e6:.1f} MB"
            self._reductions.append(Span(REDUCTIONS, name, True, begin, self._now()))

        transport.reduce = recorded  # type: ignore[method-assign]


def record(arguments: Arguments, topology: Topology) -> tuple[list[Span], float, float]:
    """Train a few steps; returns this rank's spans, a step's seconds, and those of its all-reduces alone."""
    config = Config(
        network=arguments.network,
        optim=OptimizerConfig(batch_size=arguments.batch_size, lr=1e-3, epochs=1),
        hardware=HardwareConfig(precision=arguments.precision, gradient_dtype=arguments.gradient_dtype),
    )
    trainer = Trainer(config, topology, CLASSES)
    draw = torch.Generator().manual_seed(topology.pair)
    images = torch.randn(trainer.input_shape, generator=draw).to(topology.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (trainer.local_batch,), generator=draw).to(topology.device)
    for step in range(2):
        trainer.train_step(images, labels, step, lr=1e-3)
    recorder = Recorder(trainer)
    for step in range(2, 2 + arguments.steps):
        trainer.train_step(images, labels, step, lr=1e-3)
        recorder.mark("between two steps")
    spans = recorder.spans()
    seconds = max(span.end for span in spans if span.row == MAIN) / arguments.steps
    topology.world.Barrier()
    begin = time.perf_counter()
    pending: list[Pending] = [
        trainer.transport.all_reduce_async(stage.reduced_grads)
        for stages in trainer.flat
        for stage in reversed(stages)
    ]
    for reduction in pending:
        reduction.result()
    if topology.device.type == "cuda":
        torch.cuda.synchronize(topology.device)
    return spans, seconds, time.perf_counter() - begin


def chrome_trace(spans_of_ranks: Sequence[Sequence[Span]]) -> dict[str, Any]:
    """The spans in the Trace Event Format: complete events ("X"), in microseconds; a rank is a process."""
    events: list[dict[str, Any]] = []
    for rank, spans in enumerate(spans_of_ranks):
        name = f"rank {rank}, pair {rank // 2}, tower {'ab'[rank % 2]}"
        events.append({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": name}})
        for row, name in ((MAIN, "main thread"), (REDUCTIONS, "all-reduces")):
            events.append({"ph": "M", "name": "thread_name", "pid": rank, "tid": row, "args": {"name": name}})
        for span in spans:
            times = {"ts": span.begin * 1e6, "dur": (span.end - span.begin) * 1e6}
            kind = "communication" if span.waiting else "computation"
            events.append(
                {"ph": "X", "name": span.name, "cat": kind, "pid": rank, "tid": span.row, **times, "args": {}}
            )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def exposed(spans: Sequence[Span]) -> dict[str, float]:
    """Seconds that the main thread waits, by kind of communication."""
    found = {"the pair's exchanges": 0.0, "all-reduces": 0.0}
    for span in spans:
        if span.row == MAIN and span.waiting:
            kind = "all-reduces" if "all-reduce" in span.name else "the pair's exchanges"
            found[kind] += span.end - span.begin
    return found


def draw(spans_of_ranks: Sequence[Sequence[Span]], path: Path) -> None:
    """Draw two rows for each rank: computation, coloured by direction, above; all-reduces below."""
    from matplotlib.figure import Figure  # slow to import, and optional

    colors = {"forward": "#4878a8", "backward": "#2f4b6e", "update": "#6aa84f"}
    figure = Figure(figsize=(12, 1 + 0.7 * len(spans_of_ranks)), layout="constrained")
    axes = figure.subplots()
    for rank, spans in enumerate(spans_of_ranks):
        for span in spans:
            color = next((c for word, c in colors.items() if word in span.name), "#d9d9d9")
            if span.waiting:
                color = "#e69138"
            bottom = -rank + (0.05 if span.row == MAIN else -0.35)
            axes.broken_barh(
                [(1e3 * span.begin, 1e3 * (span.end - span.begin))],
                (bottom, 0.35),
                facecolors=color,
                edgecolors="white",
                linewidth=0.3,
            )
    axes.set_yticks([-r for r in range(len(spans_of_ranks))])
    axes.set_yticklabels([f"rank {r} ({'ab'[r % 2]})" for r in range(len(spans_of_ranks))])
    axes.set_xlabel(
        "milliseconds; orange: communication (lower row of a rank: all-reduces in their own thread)"
    )
    style.write(figure, path, dpi=150)


def run(arguments: Arguments) -> None:
    """Record on all ranks; rank 0 writes the files."""
    with abort_all_on_error():
        on_root(world(), lambda: require_output(arguments.path))
        topology = init_topology(arguments.device, towers=arguments.network.towers)
        spans, seconds, idle = record(arguments, topology)
        gathered: list[list[Span]] = topology.world.gather(spans) or []
        if topology.is_root:
            write_atomically(arguments.path, json.dumps(chrome_trace(gathered)).encode())
            print(f"{arguments.path}: {arguments.steps} steps of {1e3 * seconds:.0f} ms")
            for kind, waited in exposed(gathered[0]).items():
                share = waited / arguments.steps / seconds
                print(f"  rank 0 waits {100 * share:.1f} % of a step for {kind}")
            print(f"  a step's all-reduces alone, on idle ranks: {100 * idle / seconds:.1f} % of a step")
            image = arguments.path.with_suffix(".png")
            try:
                draw(gathered, image)
                print(f"{image}: the same as an image")
            except ModuleNotFoundError:
                print("no image: matplotlib is not installed; make setup installs it", file=sys.stderr)
        topology.world.Barrier()
