"""The metadata at the head of the model card, in YAML: Hugging Face's hub shows and searches them.

https://huggingface.co/docs/hub/model-cards has the keys.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from preprocess.shared.names import shown
from trainer.evaluation.pretrained_network import PretrainedNetwork
from trainer.runs import checkpoint
from trainer.runs.summary import IMAGENET

IMAGENET_ON_HUB = {"type": "ILSVRC/imagenet-1k", "name": "ImageNet (ILSVRC-2012)", "split": "validation"}
OWN_IMAGES = {"type": "imagefolder", "name": "images in class folders", "split": "validation"}
TASK = {"type": "image-classification", "name": "Image Classification"}


def front_matter(
    network: PretrainedNetwork, name: str, measured: dict[str, Any] | None, license: str | None
) -> str:
    """The metadata between two lines of dashes.

    name: the model's. measured: the log's line with the errors of this checkpoint; without it the metadata
    have no results. license: of the weights, by the hub's identifier.
    """
    data: dict[str, Any] = {"license": license} if license else {}
    data |= {
        "library_name": "pytorch",
        "pipeline_tag": TASK["type"],
        "tags": ["alexnet", "convolutional-neural-network", "image-classification"],
    }
    imagenet = _is_imagenet(network)
    if imagenet:
        data["datasets"] = [IMAGENET_ON_HUB["type"]]
    if measured:
        metrics = [
            {"type": "accuracy", "name": f"Top-{k} accuracy", "value": round(1 - measured[key], 6)}
            for k, key in ((1, "val_top1_error"), (5, "val_top5_error"))
        ]
        results = {"task": TASK, "dataset": IMAGENET_ON_HUB if imagenet else OWN_IMAGES, "metrics": metrics}
        data["metrics"] = ["accuracy"]
        data["model-index"] = [{"name": shown(name), "results": [results]}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _is_imagenet(network: PretrainedNetwork) -> bool:
    """Whether the classes and the number of validation images are those of ILSVRC-2012."""
    found = checkpoint.recorded_validation(network.source)
    ids = all(re.fullmatch(r"n\d{8}", name) for name in network.classes)
    return found is not None and ids and (len(network.classes), found["images"]) == IMAGENET
