"""Outputs of layers for image files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from preprocess.shared import progress
from preprocess.shared.names import shown
from trainer.commands.feature_files import FORMATS, FeatureFile
from trainer.errors import UserError, require_output
from trainer.evaluation import image_files
from trainer.evaluation.image_files import ImageFile
from trainer.evaluation.layers import refusal
from trainer.evaluation.pretrained import load
from trainer.evaluation.pretrained_network import PretrainedNetwork

if TYPE_CHECKING:
    from trainer.features import Arguments


def shapes_of(network: PretrainedNetwork, layers: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's output for one image. Raises UserError for a layer that is not there."""
    try:
        return {name: y.shape[1:] for name, y in network.features([], layers).items()}
    except ValueError as error:
        raise UserError(str(error)) from None


def run(a: Arguments) -> NoReturn:
    """Compute and write; ends with exit code 1 where an image could not be read."""
    if sentence := refusal(a.layers):
        raise UserError(sentence)
    require_output(a.to, *FORMATS)
    if a.to.suffix.lower() == ".zarr" and a.to.exists():
        raise UserError(f"{a.to} exists already: remove it, or name another place.")
    paths = image_files.find(a.pictures)
    network = load(a.model, a.checkpoint, a.device)
    unreadable: list[ImageFile] = []
    with FeatureFile(a.to, shapes_of(network, a.layers), a.dtype) as target:
        bar = progress.images(len(paths), 0, "images", leave=False)
        for files in image_files.batches(paths, network.image_size, network.upright, a.batch_size):
            images = [f.image_SS3 for f in files if f.image_SS3 is not None]
            features = network.features(images, a.layers, a.ten_crop, a.batch_size)
            for y in features.values():
                network.require_finite(y)
            target.append([f.path for f in files if not f.error], features)
            unreadable += [f for f in files if f.error]
            bar.update(len(files))
        bar.close()
        code = image_files.report_unreadable(unreadable)
        if not target.names:
            raise UserError("None of the images can be read: nothing is written.")
        target.write()
    print(f"{shown(a.to)}: {len(target.names):,} images")
    for layer, rows in target.rows.items():
        print(f"  {layer} {[len(target.names), *rows.shape]} {a.dtype}")
    raise SystemExit(code)
