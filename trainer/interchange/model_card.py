"""The model card: what a stranger must know of a network, from the run's own record."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.config import Config
from trainer.evaluation.pretrained import Trained
from trainer.recipes import RECIPES
from trainer.runs import run_folder
from trainer.runs.log import read_log

RECIPE_WORDS = {
    "auto": "this project's own for any set of pictures",
    "paper": "Krizhevsky, Sutskever, Hinton (2012) as the paper states it",
    "cuda-convnet": "Krizhevsky, Sutskever, Hinton (2012) as the program of that year ran it",
}


def write(trained: Trained, figures: list[Path], onnx: bool) -> str:
    """The card as Markdown. figures: paths relative to the card."""
    run = trained.run or trained.source
    parameters = sum(p.numel() for p in trained.network.parameters())
    towers = "two towers" if trained.config.network.towers == 2 else "one tower"
    return "\n".join(
        [
            f"# AlexNet, {run.name}",
            "",
            f"The network of Krizhevsky, Sutskever, Hinton (2012) in {towers}, {parameters:,} parameters, "
            f"trained from scratch to tell {len(trained.classes):,} classes of pictures apart.",
            "",
            *_errors(trained, run),
            *_recipe(trained.config),
            *_data(trained, run),
            *_made_with(trained),
            *_use(onnx, trained.image_size),
            *_limits(trained),
            *_figures(figures),
        ]
    )


def _errors(trained: Trained, run: Path) -> list[str]:
    step = trained.state.get("step")
    lines = [
        line for line in read_log(run / run_folder.LOG) if "val_top1_error" in line and line["step"] == step
    ]
    if not lines:
        return ["## Errors", "", "Not measured at this checkpoint.", ""]
    last = lines[-1]
    return [
        "## Errors",
        "",
        f"On the validation set, centre crop, at epoch {last['epoch']}:",
        "",
        "| top-1 | top-5 |",
        "|---|---|",
        f"| {100 * last['val_top1_error']:.2f} % | {100 * last['val_top5_error']:.2f} % |",
        "",
        "`python -m trainer.evaluate --ten-crop` gives those of ten crops.",
        "",
    ]


def _recipe(config: Config) -> list[str]:
    o = config.optim
    changed = run_folder.differences(RECIPES[config.recipe], config)
    decided = ("batch_size", "lr", "epochs", "warmup_epochs")  # stated in the sentence
    others = [words for name, words in changed.items() if name not in decided]
    return [
        "## Recipe",
        "",
        f"`{config.recipe}`: {RECIPE_WORDS[config.recipe]}. Batch {o.batch_size}, rate {o.lr:g}, schedule "
        f"{o.schedule}, momentum {o.momentum:g}, weight decay {o.weight_decay:g}, {o.epochs} epochs, "
        f"warm-up over {o.warmup_epochs:g}, seed {config.run.seed}.",
        "",
        *(["Unlike the recipe:", "", *(f"- {words}" for words in others), ""] if others else []),
    ]


def _data(trained: Trained, run: Path) -> list[str]:
    fingerprint = json.loads((run / run_folder.CONFIG).read_text()).get("store", "unknown")
    shown = [trained.name(index) for index in range(min(12, len(trained.classes)))]
    more = ", ..." if len(trained.classes) > len(shown) else ""
    return [
        "## Data",
        "",
        f"A store of preprocessed pictures with the fingerprint `{fingerprint}`: shorter side to "
        f"{trained.image_size} pixels, central square, the training set's mean image subtracted.",
        "",
        f"{len(trained.classes):,} classes: {', '.join(shown)}{more}.",
        "",
    ]


def _made_with(trained: Trained) -> list[str]:
    versions = trained.state.get("versions", {})
    said = ", ".join(f"{name} {value}" for name, value in versions.items()) or "not recorded"
    ranks = trained.state.get("world")
    on = f" on {ranks} rank{'s' if ranks != 1 else ''}" if ranks else ""
    return ["## Made with", "", f"{said}; step {trained.state.get('step', 0):,}{on}.", ""]


def _use(onnx: bool, size: int) -> list[str]:
    lines = [
        "## Use",
        "",
        "```python",
        "import numpy, torch",
        "from PIL import Image",
        "from alexnet import AlexNet",
        "",
        'network = AlexNet.load("alexnet.safetensors")',
        'picture = Image.open("picture.jpg").convert("RGB")',
        "# shorter side first, then the central square",
        f"scale = {size} / min(picture.size)",
        "picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BICUBIC)",
        f"left, top = ((side - {size}) // 2 for side in picture.size)",
        f"picture = picture.crop((left, top, left + {size}, top + {size}))",
        "p = network.probabilities(torch.from_numpy(numpy.array(picture))[None], ten_crop=True)[0]",
        "for value, index in zip(*p.topk(5)):",
        '    print(f"{value:.3f} {network.classes[index]}")',
        "```",
        "",
    ]
    if onnx:
        lines += [
            f"`alexnet.onnx` takes `pictures`, uint8 [batch, {size}, {size}, 3] in RGB, and gives the "
            "`logits` of their centre crops; the mean image is inside, the classes are in its metadata.",
            "",
        ]
    return lines


def _limits(trained: Trained) -> list[str]:
    return [
        "## Limits",
        "",
        f"It knows these {len(trained.classes):,} classes and answers with one of them whatever it is shown. "
        "Its probabilities are softmax outputs, not calibrated. The pictures' own licences hold.",
        "",
    ]


def _figures(figures: list[Path]) -> list[str]:
    if not figures:
        return []
    return ["## Figures", "", *(f"![{path.stem.replace('-', ' ')}]({path.as_posix()})\n" for path in figures)]
