"""Tars and zips of which the name tells nothing: the layout is recognised by what they hold.

imagenet-object-localization-challenge.zip  with ILSVRC/Data/CLS-LOC/ and the tables of Kaggle
tiny-imagenet-200.zip                       with val/val_annotations.txt
photos.zip                                  with train/<class>/ and val/<class>/, or <class>/, at any depth
"""

import shlex
from pathlib import Path

from preprocess.errors import UserError
from preprocess.sources import kaggle, tiny_imagenet
from preprocess.sources.class_folders import by_folder, shape_of
from preprocess.sources.tables import Layout, Source
from preprocess.sources.trees import InArchive

KNOWN = {kaggle.SOLUTION: kaggle.kaggle_tree, tiny_imagenet.ANNOTATIONS: tiny_imagenet.tiny_tree}  # by a file


def archive_of_images(archive: Path, cache: Path | None = None) -> Source:
    """Read a tar or zip.

    Args:
        archive: the file.
        cache: folder for the list of its members.

    Raises:
        UserError: it is damaged, holds no images, or as the layouts.
    """
    tree = InArchive(archive, cache)
    if tree.above(kaggle.PATCHED) is not None:
        files = " ".join((kaggle.PATCHED, kaggle.SOLUTION, kaggle.MAPPING))
        raise UserError(
            f"{archive} holds the images packed again: unpack them out of it with "
            f"`unzip {shlex.quote(archive.name)} {files}`, and give the folder with these three files"
        )
    found = {mark: above for mark in KNOWN if (above := tree.above(mark)) is not None}
    if len(found) > 1:
        raise UserError(f"{archive} holds both {' and '.join(found)}: make an archive of one set alone")
    for mark, above in found.items():
        return KNOWN[mark](tree, above)
    kind = f"class folders{tree.form}"
    return by_folder(kind, tree.root, tree.archives, tree.entries, shape_of(tree.entries))


LAYOUT = Layout(  # the last of the layouts: every file that no other takes
    name="an archive",
    marks=lambda path: [path.name] if path.is_file() else [],
    read=archive_of_images,
)
