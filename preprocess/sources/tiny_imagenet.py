"""Tiny ImageNet: 200 classes of images of 64x64 pixels, on disk or in its zip or a tar.

Recognised by val/val_annotations.txt, whose lines are an image's name, its wnid and a box, with tabs between.

    train/n01443537/images/n01443537_0.JPEG
    val/images/val_0.JPEG
    val/val_annotations.txt
    wnids.txt               one wnid a line
    words.txt               wnid and name, for all of WordNet

The class of a training image is its folder; that of a validation image is in the annotations.
"""

from preprocess.errors import UserError
from preprocess.shared.image_files import parts_of
from preprocess.sources.class_folders import LAYOUT as CLASS_FOLDERS
from preprocess.sources.class_folders import Shape, sort_by_folder
from preprocess.sources.tables import Layout, Row, Source, in_class_order, table
from preprocess.sources.trees import OnDisk, Text, Tree

ANNOTATIONS = "val/val_annotations.txt"
WNIDS, WORDS = "wnids.txt", "words.txt"
AGAIN = "get the set again"


def tiny_tree(tree: Tree, above: str = "") -> Source:
    """Read the set in the folder `above` of a tree.

    Raises:
        UserError: a part is missing, or parts disagree.
        OSError: a part cannot be read.
    """
    truth = read_annotations(tree.text(above + ANNOTATIONS))
    others, val_images = [], []
    for entry in tree.files(above):
        if entry.name.startswith(f"{above}val/"):
            val_images.append(entry)
        elif entry.name.removeprefix(above) not in (WNIDS, WORDS):
            others.append(entry)
    found = sort_by_folder(tree.where, others, Shape(len(parts_of(above))), 0 if tree.archives else -1)
    trained = found.rows["train"]
    named = set(tree.text(above + WNIDS).text.split()) if tree.holds(above + WNIDS) else set(trained)
    classes = in_class_order(named)
    index = {wnid: label for label, wnid in enumerate(classes)}
    if unknown := sorted(trained.keys() - index.keys()):
        raise UserError(f"{tree.where} has train/{unknown[0]}, which {WNIDS} does not name: {AGAIN}")
    val = []
    for entry in val_images:
        if entry.name != above + ANNOTATIONS and found.aside.is_image(entry):
            *folders, name = parts_of(entry.name)
            wnid = truth.get(name)
            if wnid not in index or any(folder in index and folder != wnid for folder in folders):
                line = f"the class {wnid} in" if wnid else "no line in"
                raise UserError(f"{tree.where / entry.name} has {line} {ANNOTATIONS}: {AGAIN}")
            val.append(Row(entry.name, 0 if tree.archives else -1, entry.offset, entry.length, index[wnid]))
    if not val:
        raise UserError(f"{tree.where} holds no image in {above}val/: {AGAIN}")
    return Source(
        kind=f"Tiny ImageNet{tree.form}",
        root=tree.root,
        archives=tree.archives,
        classes=classes,
        class_names=class_names(tree.text(above + WORDS), classes) if tree.holds(above + WORDS) else None,
        train=table(row._replace(label=index[wnid]) for wnid, rows in trained.items() for row in rows),
        val=table(val),
        ignored=tuple(found.aside.ignored),
        hidden=len(found.aside.hidden),
    )


def read_annotations(annotations: Text) -> dict[str, str]:
    """The wnid of each validation image. Raises UserError: a line has none, or a name has two classes."""
    truth: dict[str, str] = {}
    for line in annotations.text.splitlines():
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not wnid or truth.setdefault(name, wnid) != wnid:
            raise UserError(f"{annotations.path} has the line {line[:80]!r}, which names no class: {AGAIN}")
    return truth


def class_names(words: Text, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of classes in words; the wnid where there is none."""
    pairs = (line.partition("\t") for line in words.text.splitlines())
    names = {wnid: name.strip() for wnid, _, name in pairs}
    return tuple(names.get(wnid) or wnid for wnid in classes)


LAYOUT = Layout(
    name="Tiny ImageNet",
    marks=lambda path: [ANNOTATIONS] if (path / ANNOTATIONS).is_file() else [],
    read=lambda path, _: tiny_tree(OnDisk(path)),
    before=(CLASS_FOLDERS.name,),
)
