"""Recognises the layout of a source, and reads it.

In all layouts the label of a class is the rank of its name (the wnid) in sorted order, or as a number where
all classes are numbers.
"""

import shlex
from pathlib import Path

from preprocess.errors import UserError
from preprocess.sources import (
    archives,
    class_folders,
    class_tars,
    flat_tars,
    flat_validation,
    kaggle,
    official,
    parquet,
    tiny_imagenet,
    webdataset,
)
from preprocess.sources.blocks import in_blocks
from preprocess.sources.braces import has_braces
from preprocess.sources.tables import Layout, Source

LAYOUTS = (
    official.LAYOUT,
    class_tars.LAYOUT,
    kaggle.LAYOUT,
    parquet.LAYOUT,
    webdataset.LAYOUT,
    flat_tars.LAYOUT,
    tiny_imagenet.LAYOUT,
    flat_validation.LAYOUT,
    class_folders.LAYOUT,
)
PACKED = (".tar", ".tar.gz", ".tgz", ".zip")


def recognise(path: Path, cache: Path | None = None) -> Source:
    """Recognise the layout at `path` and read the places and labels of its images.

    Args:
        path: a folder, a file, or a name with braces that stands for several archives.
        cache: folder for the lists of archives' members, which take long to read.

    Raises:
        UserError: there is no source, no known layout, an incomplete one, two at once, or no access.
    """
    try:
        return in_blocks(_layout(path).read(path, cache))
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be opened or listed ({error.strerror}): make it readable, "
            "or name another place with --config imagenet=PATH"
        ) from error


def _layout(path: Path) -> Layout:
    if not path.exists() and has_braces(str(path)):
        return webdataset.LAYOUT
    if not path.exists():
        raise UserError(
            f"there is no ImageNet at {path}: put the official tars or class folders there, "
            "or name another place with --config imagenet=PATH; docs/data.md lists what it can be"
        )
    marks = {layout.name: layout.marks(path) for layout in LAYOUTS}
    found = [layout for layout in LAYOUTS if marks[layout.name]]
    passed_over = {name for layout in found for name in layout.before}
    found = [layout for layout in found if layout.name not in passed_over]
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(f"{layout.name} ({', '.join(marks[layout.name])})" for layout in found)
        raise UserError(f"{path} holds both {both}: leave only one of them there")
    if path.is_file():
        return archives.LAYOUT
    if class_folders.WITHOUT_PARTS.marks(path):
        return class_folders.WITHOUT_PARTS
    if alone := class_folders.folders_with_images(path):
        raise UserError(
            f"{path} has images in one folder only, {alone[0]}/: name a folder that holds two folders of "
            "images or more, one for each class, with --config imagenet=PATH"
        )
    there = sorted(entry.name for entry in path.iterdir())
    packed = next((name for name in there if name.lower().endswith(PACKED)), "")
    remedy = (
        f"to read {packed}, name the file itself with --config imagenet={shlex.quote(str(path / packed))}"
        if packed
        else "name the right place with --config imagenet=PATH; docs/data.md lists what it can be"
    )
    raise UserError(
        f"{path} holds neither folders of images nor ImageNet's archives, but "
        f"{', '.join(there[:5]) + (', ...' if there[5:] else '') or 'nothing'}: {remedy}"
    )
