"""Write the figures as JSON, print them as a table, draw them as a figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Results = list[dict[str, Any]]

WIDTH = 110  # columns of the table; with fewer, rich would cut figures off


SHOWN = (
    ("of_limit", "share of the limit", "o", "#2f4b6e"),
    ("of_units", "share of the units", "s", "#7a9e7e"),
    ("of_peer", "times the peer", "D", "#e69138"),
)


def write(path: Path, results: Results) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def show(results: Results) -> None:
    """Print the table, and below it what each row compares; lines that several rows share appear once."""
    console = Console()
    console.width = max(console.width, WIDTH)
    numbers = ("ours", "peer", "limit", "units")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header in ("stage", *numbers, "unit", "ours/peer", "ours/limit", "ours/units"):
        table.add_column(header, justify="left" if header in ("stage", "unit") else "right", no_wrap=True)
    notes: dict[str, list[str]] = {}
    for entry in results:
        table.add_row(
            entry["stage"],
            *(_number(entry[name]) for name in numbers),
            entry["unit"],
            *(_number(entry[name]) for name in ("of_peer", "of_limit", "of_units")),
        )
        family = entry["stage"].split()[0]
        for role in numbers:
            line = f"{role}: {entry[f'{role}_is']}"
            if entry[role] is not None and line not in notes.setdefault(family, []):
                notes[family].append(line)
    console.print(table)
    for family, lines in notes.items():
        console.print(f"[bold]{family}[/bold]")
        for line in sorted(lines, key=lambda line: numbers.index(line.split(":")[0])):
            console.print(f"  {line}", highlight=False, soft_wrap=True)


def draw(path: Path, results: Results) -> None:
    """Draw each stage's speed, divided by its limit, its units' and its peer's, on a logarithmic axis."""
    from matplotlib.figure import Figure  # slow to import, and only this function needs it

    shown = [entry for entry in results if any(entry[name] for name, *_ in SHOWN)]
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for name, label, marker, color in SHOWN:
        axes.plot([], [], marker, color=color, label=label)
        for row, entry in enumerate(shown):
            if entry[name]:
                axes.plot(entry[name], -row, marker, color=color)
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks([-row for row in range(len(shown))])
    axes.set_yticklabels([entry["stage"] for entry in shown])
    axes.grid(axis="x", linewidth=0.3)
    axes.legend(loc="best")
    figure.savefig(path, dpi=150)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
