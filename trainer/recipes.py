"""The three recipes, and what is filled in from the size of a training set.

`auto`, the default, learns on whatever store it is given; `paper` and `cuda-convnet` are the two of 2012,
exact.
"""

from __future__ import annotations

import dataclasses
import math

from trainer.config import AugmentConfig, Config, NetworkConfig, OptimizerConfig

PAPER = Config(
    recipe="paper",
    optim=OptimizerConfig(batch_size=128, lr=0.01, epochs=90, schedule="plateau"),
)

CUDA_CONVNET = Config(
    recipe="cuda-convnet",
    network=NetworkConfig(
        lrn_alpha=1e-4 / 5,
        conv1_order="lrn-pool-relu",
        conv2_spatial_norm=True,
        init_std_conv345=0.03,
    ),
    # The program's notes say that the colour shift was set to 0 and conv1 frozen near the end, without an
    # epoch; the last fall of the rate is taken for it.
    augment=AugmentConfig(crop_group=32, mean_window="center", train_divisor=1.1, color_epochs=78),
    optim=OptimizerConfig(
        batch_size=128,
        lr=0.01,
        epochs=93,
        schedule="steps",
        lr_steps=(23, 51, 78),
        bias_lr=2.0,
        bias_decay=False,
        freeze_conv1_epoch=78,
    ),
)

AUTO = Config(
    network=NetworkConfig(init="scaled", init_bias=0.0),
    augment=AugmentConfig(
        divisor=60.0
    ),  # about the standard deviation of a pixel less its mean: inputs near 1
)

RECIPES = {"auto": AUTO, "paper": PAPER, "cuda-convnet": CUDA_CONVNET}


def settle(config: Config, train_images: int) -> tuple[Config, list[str]]:
    """Fill in what the recipe leaves to the training set; returns the reasons too, a sentence each."""
    o, reasons = config.optim, []
    batch, lr, epochs, warmup = o.batch_size, o.lr, o.epochs, o.warmup_epochs
    if batch is None:
        batch = 128 if train_images >= 100_000 else 32
        reasons.append(f"batch {batch}: the paper's 128 from 100,000 pictures on, 32 below, for more updates")
    if epochs is None:
        epochs = max(8, min(90, round(90 * (train_images / 1_281_167) ** (1 / 3))))
        reasons.append(
            f"{epochs} epochs: 90 for ImageNet's 1,281,167 pictures, by the cube root for {train_images:,}, "
            "for a first result soon; --epochs N for a better one"
        )
    if lr is None:
        # Krizhevsky (2014): the square root keeps the variance of an update; for batches above his he found
        # proportion, with a warm-up, to work better.
        share = batch / 128
        lr = 0.01 * (share if share > 1 else math.sqrt(share))
        how = "in proportion to" if share > 1 else "by the square root of"
        reasons.append(f"rate {lr:g}: the paper's 0.01 for a batch of 128, {how} the batch, {batch}")
        if not warmup:
            warmup = 1.0
            reasons.append(
                "warm-up over 1 epoch: the full rate in the first steps can silence units for good"
            )
    if batch > train_images:
        reasons.append(
            f"a batch of {batch} is larger than the training set of {train_images}: each step shows an image "
            f"{batch / train_images:.3g} times; --batch-size N takes a smaller one"
        )
    o = dataclasses.replace(o, batch_size=batch, lr=lr, epochs=epochs, warmup_epochs=warmup)
    return dataclasses.replace(config, optim=o), reasons
