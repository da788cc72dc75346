"""The three recipes, and the settings that follow from the size of the training set.

`auto`, the default, is for a store of any size. `paper` and `cuda-convnet` have the exact constants of 2012.
"""

from __future__ import annotations

import dataclasses
import math

from trainer.config import AugmentConfig, Config, NetworkConfig, OptimizerConfig, with_changes

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
    # cuda-convnet's notes say that the colour shift was set to 0 and conv1 frozen near the end, but not in
    # which epoch. Here it is the epoch of the last learning-rate step.
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
    # A divisor of about a pixel's standard deviation, so that inputs are near 1.
    augment=AugmentConfig(divisor=60.0, crop_area=None),
    optim=OptimizerConfig(conv1_decay=None),
)

OF_INITIAL_WEIGHTS = ("init", "init_std", "init_std_conv345", "init_bias")
"""The settings of the network that matter at the beginning alone."""
OF_INPUT = ("crop_size", "mean_window", "divisor")
"""The settings of augmentation that the first layer has learned with."""

MANY = 100_000
"""Training images from which on `auto` trains as the paper does: a tenth of ImageNet's, in round numbers."""

RECIPES = {"auto": AUTO, "paper": PAPER, "cuda-convnet": CUDA_CONVNET}


def with_network(recipe: Config, trained: Config) -> Config:
    """A recipe for a run that begins with a trained network: the settings of that network and of its input.

    A new fc8 is drawn as that network's was: the sizes of its activations and of its weights go together.
    """
    own = {name: getattr(trained.augment, name) for name in OF_INPUT}
    augment = dataclasses.replace(recipe.augment, **own)
    return dataclasses.replace(recipe, network=trained.network, augment=augment)


def usual_rate(batch: int) -> tuple[float, str]:
    """The learning rate of `auto` for a batch size, and where it comes from.

    Above 128 Krizhevsky (2014) found proportion to the batch size to work best, with a warm-up. In proportion
    to the square root, which he derives, the updates of smaller batches would have the same variance; with 32
    images of Imagenette the paper's own rate learned no worse (tests/benchmarks/NOTES.md).
    """
    if batch > 128:
        return 0.01 * batch / 128, "the paper's 0.01 for a batch of 128, in proportion to the batch size"
    if batch < 32:
        how = "for batches of 32 to 128, in proportion to the square root of a smaller one"
        return 0.01 * math.sqrt(batch / 32), f"the paper's 0.01 {how}"
    return 0.01, "the paper's, for batches of 32 to 128"


def settle(config: Config, train_images: int) -> tuple[Config, list[str]]:
    """Fill in the settings that the recipe leaves open; also return the reasons, one sentence each."""
    o, crop_area, reasons = config.optim, config.augment.crop_area, []
    batch, lr, epochs, warmup, conv1_decay = o.batch_size, o.lr, o.epochs, o.warmup_epochs, o.conv1_decay
    many = train_images >= MANY
    if batch is None:
        batch = 128 if many else 32
        reasons.append(
            f"batch size {batch}: the paper's 128 from 100,000 images on; 32 below, for more updates"
        )
    if epochs is None:
        epochs = max(8, min(90, round(90 * (train_images / 1_281_167) ** (1 / 3))))
        reasons.append(
            f"{epochs} epochs: 90 for ImageNet's 1,281,167 images; for {train_images:,}, in proportion to "
            "the cube root, for a first result soon; --epochs N for a better one"
        )
    if lr is None:
        lr, why = usual_rate(batch)
        reasons.append(f"learning rate {lr:g}: {why}")
        if config.run.init_from:
            reasons.append(
                "fine-tuning at the learning rate of a run from scratch: best for a network that was trained "
                f"on few images; for one of a far larger set, a tenth is usual: --lr {lr / 10:g} --fc8-lr 10"
            )
        if not warmup:
            warmup = 1.0 if batch > 128 else 0.25
            reasons.append(
                f"warm-up over {warmup:g} epochs: the full learning rate in the first steps can leave units "
                "at zero for good"
            )
    if conv1_decay is None:
        # Sum of learning rate times weight decay, over one minus momentum: what the weights' beginning loses.
        # The paper's training takes away all of it, 5,000 steps hardly any.
        conv1_decay = 1.0 if many or config.run.init_from else 20.0
        if conv1_decay > 1:
            reasons.append(
                f"weight decay of conv1 {conv1_decay:g} times that of other layers: so few steps would leave "
                "its filters the noise that they were drawn as"
            )
    if crop_area is None:
        crop_area = 1.0 if many else 0.5
        if crop_area < 1:
            reasons.append(
                f"crops of {100 * crop_area:g} % of the image or more, resized: more views of few images"
            )
    if batch > train_images:
        reasons.append(
            f"a batch of {batch} is larger than the training set of {train_images}: each step has every "
            f"image {batch / train_images:.3g} times; --batch-size N for a smaller one"
        )
    settled = {"batch_size": batch, "lr": lr, "epochs": epochs, "warmup_epochs": warmup}
    return with_changes(config, **settled, conv1_decay=conv1_decay, crop_area=crop_area), reasons
