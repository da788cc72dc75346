"""The model card in Markdown: errors, recipe, data, versions, use and limits, from the run's own files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocess.shared.names import shown
from trainer.config import GROUP_OF, Config
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.interchange import hub_metadata, traced
from trainer.recipes import PAPER, RECIPES
from trainer.runs import run_folder
from trainer.runs.log import having, read_log

RECIPES_IN_WORDS = {
    "auto": "this project's own for any set of images",
    "paper": "Krizhevsky, Sutskever, Hinton (2012), as the paper has it",
    "cuda-convnet": "Krizhevsky, Sutskever, Hinton (2012), as the program of that year had it",
}


def markdown(
    network: PretrainedNetwork,
    figures: list[Path],
    forms: Sequence[str],
    kind: traced.Input,
    license: str | None,
) -> str:
    """The card's text, after the hub's metadata.

    figures: paths relative to the card. forms: names of the ONNX file and of the torch.export program, as far
    as they were written. kind: their input. license: of the weights, by the hub's identifier.
    """
    run = network.run or network.source
    measured = _measured(network, run)
    parameters = sum(p.numel() for p in network.network.parameters())
    towers = "two towers" if network.config.network.towers == 2 else "one tower"
    imported = "imported" in network.state  # at step 0 alone
    return "\n".join(
        [
            hub_metadata.front_matter(network, f"AlexNet, {run.name}", measured, license),
            f"# AlexNet, {_escaped(run.name)}",
            "",
            f"The network of Krizhevsky, Sutskever, Hinton (2012) in {towers}, {parameters:,} parameters, "
            f"{_origin(network)} {len(network.classes):,} classes of images.",
            "",
            *_errors(measured),
            *(_settings(network.config) if imported else _recipe(network.config)),
            *_data(network, run),
            *_made_with(network),
            *_use(forms, kind, network),
            *_limits(network),
            *_figures(figures),
        ]
    )


def _origin(network: PretrainedNetwork) -> str:
    """Where its weights are from, up to the number of classes."""
    imported, initial = network.state.get("imported"), network.state.get("init_from")
    if imported:
        return f"imported from {_escaped(imported)}, with"
    return f"fine-tuned from {_escaped(initial['name'])} on" if initial else "trained from scratch on"


def _escaped(name: str) -> str:
    """A name in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", shown(name))


def _measured(network: PretrainedNetwork, run: Path) -> dict[str, Any] | None:
    """The last line of the log with errors of this checkpoint."""
    lines = having(read_log(run / run_folder.LOG), "val_top1_error", "val_top5_error", "epoch")
    return next((line for line in reversed(lines) if line["step"] == network.state.get("step")), None)


def _errors(measured: dict[str, Any] | None) -> list[str]:
    if not measured:
        return ["## Errors", "", "Not measured at this checkpoint.", ""]
    return [
        "## Errors",
        "",
        f"On the validation set, centre crop, at epoch {measured['epoch']}:",
        "",
        "| top-1 | top-5 |",
        "|---|---|",
        f"| {100 * measured['val_top1_error']:.2f} % | {100 * measured['val_top5_error']:.2f} % |",
        "",
        "`python -m trainer.evaluate --ten-crop` measures those of ten crops.",
        "",
    ]


def _recipe(config: Config) -> list[str]:
    o = config.optim
    changed = run_folder.differences(RECIPES[config.recipe], config)
    in_sentence = ("batch_size", "lr", "epochs", "warmup_epochs", "init_from", "classes")
    others = [phrase for name, phrase in changed.items() if name not in in_sentence]
    return [
        "## Recipe",
        "",
        f"`{config.recipe}`: {RECIPES_IN_WORDS[config.recipe]}. Batch {o.batch_size}, "
        f"learning rate {o.lr:g}, schedule {o.schedule}, momentum {o.momentum:g}, "
        f"weight decay {o.weight_decay:g}, {o.epochs} epochs, "
        f"warm-up over {o.warmup_epochs:g}, seed {config.run.seed}.",
        "",
        *(["Different from the recipe:", "", *(f"- {phrase}" for phrase in others), ""] if others else []),
    ]


def _settings(config: Config) -> list[str]:
    """Of an imported network, whose training has no record."""
    of_network = [name for name, group in GROUP_OF.items() if group in ("network", "augment")]
    changed = run_folder.differences(PAPER, config)
    phrases = [f"- {phrase}" for name, phrase in changed.items() if name in of_network]
    return ["## Settings", "", "Different from the paper's network:", "", *phrases, ""]


def _data(network: PretrainedNetwork, run: Path) -> list[str]:
    fingerprint = run_folder.record(run).get("store", "unknown")
    store = (
        f"A store of preprocessed images with the fingerprint `{fingerprint}`" if fingerprint else "Images"
    )
    first = [_escaped(network.name(index)) for index in range(min(12, len(network.classes)))]
    more = ", ..." if len(network.classes) > len(first) else ""
    return [
        "## Data",
        "",
        f"{store}: shorter side to {network.image_size} pixels, central square, the training set's mean "
        "image subtracted.",
        "",
        f"{len(network.classes):,} classes: {', '.join(first)}{more}.",
        "",
    ]


def _made_with(network: PretrainedNetwork) -> list[str]:
    versions = network.state.get("versions", {})
    text = ", ".join(f"{name} {value}" for name, value in versions.items()) or "not recorded"
    ranks = network.state.get("world")
    on = f" on {ranks} rank{'s' if ranks != 1 else ''}" if ranks else ""
    return ["## Made with", "", f"{text}; step {network.state.get('step', 0):,}{on}.", ""]


def _use(forms: Sequence[str], kind: traced.Input, network: PretrainedNetwork) -> list[str]:
    size, crop = network.image_size, network.crop_size
    opened = 'Image.open("image.jpg")'
    if network.upright:
        opened = f"ImageOps.exif_transpose({opened})"
    lines = [
        "## Use",
        "",
        "```python",
        "import numpy, torch",
        f"from PIL import Image{', ImageOps' if network.upright else ''}",
        "from alexnet import AlexNet",
        "",
        'network = AlexNet.load("alexnet.safetensors")',
        f'image = {opened}.convert("RGB")',
        "# the shorter side first, then the central square",
        f"scale = {size} / min(image.size)",
        "image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)",
        f"left, top = ((side - {size}) // 2 for side in image.size)",
        f"image = image.crop((left, top, left + {size}, top + {size}))",
        "p = network.probabilities(torch.from_numpy(numpy.array(image))[None], ten_crop=True)[0]",
        "for value, index in zip(*p.topk(5)):",
        '    print(f"{value:.3f} {network.classes[index]}")',
        "```",
        "",
    ]
    if forms:
        files = " and in ".join(f"`{name}`" for name in forms)
        taken = f"uint8 [batch, {size}, {size}, 3], RGB; the centre is cropped and the mean image subtracted"
        if kind == "crops":
            taken = f"float32 [batch, 3, {crop}, {crop}], as `network.inputs` returns them"
        lines += [
            f"The same computation is in {files}, with the classes in the file's metadata. The input is "
            f"`{kind}`: {taken}. The output is `logits`: float32 [batch, {len(network.classes)}].",
            "",
        ]
    return lines


def _limits(network: PretrainedNetwork) -> list[str]:
    return [
        "## Limits",
        "",
        f"It has these {len(network.classes):,} classes and assigns one of them to any image. "
        "Its probabilities are softmax outputs, not calibrated. The images' own licences hold.",
        "",
    ]


def _figures(figures: list[Path]) -> list[str]:
    if not figures:
        return []
    return ["## Figures", "", *(f"![{path.stem.replace('-', ' ')}]({path.as_posix()})\n" for path in figures)]
