"""Whether a source has changed since it was indexed, by the times of its archives or folders alone."""

import os
from pathlib import Path

from preprocess.plan import Plan, Tables, work_folder
from preprocess.shared import json_files
from preprocess.shared.files import write_json

FILE = "source.json"


def write_stamps(store: Path, plan: Plan, tables: Tables) -> None:
    """Keep the times and sizes of the archives, and of the folders that hold images and of those above."""
    names = (
        os.fsdecode(name) for rows in tables.values() for name in rows["name"][rows["file"] < 0].tolist()
    )
    folders = {name.rpartition("/")[0] for name in names}
    folders |= {str(parent) for folder in folders for parent in Path(folder).parents}
    places = folders.union(plan.archives)
    paths = [Path(plan.source, place) for place in sorted(places)]
    write_json(work_folder(store) / FILE, {str(path): _stamp(path) for path in paths})


def changed_place(store: Path) -> str:
    """An archive that was replaced, or a folder in which an entry was added or removed; "" for none.

    A source that cannot be reached has not changed: a finished store does not need it.
    """
    try:
        stamps = json_files.read(work_folder(store) / FILE, dict[str, list[int]])
        return next((place for place, before in stamps.items() if _stamp(Path(place)) != before), "")
    except (OSError, json_files.JsonError):
        return ""


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_mtime_ns, status.st_size]
