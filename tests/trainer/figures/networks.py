"""A small network of one device, with random weights."""

from typing import Any

import torch

from trainer.config import AugmentConfig, Config, NetworkConfig, to_dict
from trainer.model.standalone import AlexNet


def small_alexnet(**settings: Any) -> AlexNet:
    """Three classes, images of 256 pixels, few filters."""
    network = NetworkConfig(filters=(4, 6, 8, 8, 6), hidden=8, **settings)
    config = Config(network=network, augment=AugmentConfig(crop_size=227 if network.conv1_pad == 0 else 224))
    torch.manual_seed(0)
    about = {
        "config": to_dict(config),
        "classes": ("a", "b", "c"),
        "class_names": None,
        "image_size": 256,
    }
    return AlexNet(about).eval()
