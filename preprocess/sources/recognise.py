"""Recognises the layout of a source, and reads it.

There are four layouts: class folders on disk, class folders in a tar, the official tars, Kaggle's tree.
In all of them the label of a class is the rank of its name (the wnid) in sorted order.
"""

from pathlib import Path

from preprocess.errors import UserError
from preprocess.sources.class_folders import class_folders, part_named, tar_of_class_folders
from preprocess.sources.kaggle import IMAGES, MAPPING, SOLUTION, kaggle_tree
from preprocess.sources.official import DEVKITS, TRAIN_TAR, VAL_TAR, official_tars
from preprocess.sources.tables import Source


def recognise(path: Path, cache: Path | None = None) -> Source:
    """Recognise the layout at `path` and read the places and labels of its images.

    Args:
        path: a folder, or a tar of class folders, or one of the official tars.
        cache: folder for the lists of archives' members, which take long to read.

    Raises:
        UserError: there is no source, no known layout, an incomplete one, two at once, or no access.
    """
    try:
        return _recognise(path, cache)
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be opened or listed ({error.strerror}): make it readable, "
            "or name another place with --config imagenet=PATH"
        ) from error


def _recognise(path: Path, cache: Path | None) -> Source:
    if not path.exists():
        raise UserError(
            f"there is no ImageNet at {path}: put the official tars or class folders there, "
            "or name another place with --config imagenet=PATH"
        )
    official = (TRAIN_TAR, VAL_TAR, *DEVKITS)
    if path.is_file():
        if path.name in official:
            return official_tars(path.parent, cache)
        return tar_of_class_folders(path, cache)
    there = sorted(entry.name for entry in path.iterdir())
    train = [name for name in there if part_named(name) == "train" and (path / name).is_dir()]
    seen = {  # the files or folders that identify a layout
        "the official tars": [name for name in official if name in there],
        "Kaggle's tree": [name for name in (IMAGES, SOLUTION, MAPPING) if (path / name).exists()],
        "class folders": train,
    }
    layouts = [layout for layout, marks in seen.items() if marks]
    if len(layouts) > 1:
        both = " and ".join(f"{layout} ({', '.join(seen[layout])})" for layout in layouts)
        raise UserError(f"{path} holds both {both}: leave only one of them there")
    if layouts == ["the official tars"]:
        return official_tars(path, cache)
    if layouts == ["Kaggle's tree"]:
        return kaggle_tree(path)
    if layouts == ["class folders"]:
        return class_folders(path)
    raise UserError(
        f"{path} holds neither train/<class>/ folders nor {TRAIN_TAR} nor Kaggle's ILSVRC/, but "
        f"{', '.join(there[:5]) + (', ...' if there[5:] else '') or 'nothing'}: "
        "name the right place with --config imagenet=PATH"
    )
