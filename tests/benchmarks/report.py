"""The figures as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Results = list[dict[str, Any]]

WIDTH = 90  # columns that the table needs; rich would cut figures off in fewer


def write(path: Path, results: Results) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def show(results: Results) -> None:
    """The table, and under it what each row compares; what several rows share is said once."""
    console = Console()
    console.width = max(console.width, WIDTH)
    numbers = ("ours", "peer", "limit")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header in ("stage", *numbers, "unit", "ours/peer", "ours/limit"):
        table.add_column(header, justify="left" if header in ("stage", "unit") else "right", no_wrap=True)
    said: dict[str, list[str]] = {}
    for entry in results:
        table.add_row(
            entry["stage"],
            *(_number(entry[name]) for name in numbers),
            entry["unit"],
            *(_number(entry[name]) for name in ("of_peer", "of_limit")),
        )
        family = entry["stage"].split()[0]
        for role in numbers:
            line = f"{role}: {entry[f'{role}_is']}"
            if entry[role] is not None and line not in said.setdefault(family, []):
                said[family].append(line)
    console.print(table)
    for family, lines in said.items():
        console.print(f"[bold]{family}[/bold]")
        for line in sorted(lines, key=lambda line: numbers.index(line.split(":")[0])):
            console.print(f"  {line}", highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
