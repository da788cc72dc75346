"""The configuration of a run: frozen dataclasses with one flag a field, checked when they are made.

The defaults are the paper's; recipes.py has the changes of each recipe. "Paper" with a number is a section of
Krizhevsky, Sutskever, Hinton (2012). "cuda-convnet" is the program of 2012, in its public configuration 145.

The docstring of a field is its help on the command line and in docs/switches.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from preprocess.shared import json_files
from preprocess.shared.ranges import Count, Range, Seed, wrong_number
from trainer.errors import UserError

Order = Literal["relu-lrn-pool", "lrn-pool-relu", "lrn-relu-pool", "relu-pool-lrn"]


class Ranged:
    """Base of dataclasses of flags: raises UserError for a number that is outside of its field's Range."""

    def __post_init__(self) -> None:
        if wrong := wrong_number(self):
            raise UserError(wrong)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Ranged):
    """Towers, layers, normalisation and initial weights."""

    towers: Literal[1, 2] = 2
    """1: the paper's network on one GPU (3.2): a single tower, with conv5, fc6 and fc7 of twice the width."""
    dense: bool = False
    """conv2, conv4 and conv5 read both towers too: the 62,378,344 parameters of many textbooks."""
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    """Activation function (paper 3.1). In --conv1-order and --conv2-order, "relu" stands for any of them."""
    # So a layer reads at most 2048 channels. Of more channels and at most 8 filters, oneDNN 3.12's backward
    # pass of a convolution in bfloat16 writes beyond its memory.
    filters: Annotated[tuple[int, int, int, int, int], Range("[1, 1024]")] = (48, 128, 192, 192, 128)
    """Filters of conv1 to conv5 in one tower (paper 3.5: half of 96, 256, 384, 384, 256)."""
    hidden: Annotated[int, Range("[1, 65536]")] = 2048
    """Units of fc6 and of fc7 in one tower (paper 3.5: half of 4096)."""
    conv1_pad: Literal[3, 0] = 3
    """Zeros beyond the right and the bottom edge of conv1's input: 3 make 55x55 outputs of 224x224 pixels. 0:
    for --crop-size 227 (Caffe), or 54x54 outputs (the ONNX zoo's bvlcalexnet)."""
    pool_rounding: Literal["up", "down"] = "up"
    """Pooling after conv1 and conv2 where the last window does not fit: 54 pixels become 27 or 26. up: Caffe.
    down: the ONNX zoo's bvlcalexnet. Of 55, 27 and 13 pixels all windows of 3 fit."""
    lrn: bool = True
    """Local response normalisation after conv1 and conv2 (paper 3.3)."""
    lrn_size: Annotated[int, Range("[1, 511]")] = 5
    """n of LRN: channels in the sum."""
    lrn_k: Annotated[float, Range("[0.001, 1000]")] = 2.0
    """k of LRN: added to the sum."""
    lrn_alpha: Annotated[float, Range("[0, 1000]")] = 1e-4
    """alpha of LRN: factor of the sum, not divided by n. cuda-convnet: a fifth of the paper's 1e-4."""
    lrn_beta: Annotated[float, Range("[0, 10]")] = 0.75
    """beta of LRN: exponent of the denominator."""
    lrn_over: Literal["tower", "both"] = "tower"
    """Channels that LRN sums over. tower: its own tower's (paper 3.3). both: also across the towers' border,
    as programs for one device do (Caffe's); the towers exchange their outputs before it."""
    conv1_order: Order = "relu-lrn-pool"
    """Operations after conv1, in order. cuda-convnet: lrn-pool-relu. Some textbooks: lrn-relu-pool. Caffe's
    bvlc_reference_caffenet: relu-pool-lrn."""
    conv2_order: Order = "relu-lrn-pool"
    """Operations after conv2, in order."""
    conv2_spatial_norm: bool = False
    """A second LRN after conv2, over 5x5 pixels of one channel (cuda-convnet; not in the paper)."""
    overlap: bool = True
    """Max-pooling of 3x3 windows with stride 2 (paper 3.4). Off: 2x2 windows, which do not overlap."""
    dropout: Annotated[float, Range("[0, 1)")] = 0.5
    """Probability that an output of fc6 or fc7 is set to zero in training (paper 4.2). 0: no dropout."""
    inverted_dropout: bool = False
    """Training divides the outputs that dropout keeps by 1 - p, and evaluation does nothing (Caffe, torch).
    Off: evaluation multiplies them by 1 - p (paper 4.2)."""
    init: Literal["gaussian", "scaled"] = "gaussian"
    """Initial weights. gaussian: N(0, init_std), the paper's. scaled: by each layer's number of inputs, which
    works on small sets too."""
    init_std: Annotated[float, Range("(0, 100]")] = 0.01
    """Standard deviation of the initial weights (paper 5); see --init."""
    init_std_conv345: Annotated[float, Range("(0, 100]")] = 0.01
    """The same for conv3, conv4 and conv5. cuda-convnet: 0.03."""
    init_bias: Annotated[float, Range("[-1000, 1000]")] = 1.0
    """Initial biases of conv2, conv4, conv5, fc6 and fc7 (paper 5). All other biases start at 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lrn_size % 2 == 0:
            raise UserError(f"--lrn-size must be odd, not {self.lrn_size}.")
        if self.dense and self.towers != 2:
            raise UserError("--dense joins two towers: leave out --towers 1.")

    @property
    def tower_filters(self) -> tuple[int, int, int, int, int]:
        """Filters of conv1 to conv5 in each tower of this network."""
        *others, conv5 = self.filters
        return (*others, conv5 * 2 // self.towers)  # type: ignore[return-value]

    @property
    def tower_hidden(self) -> int:
        """Units of fc6, and of fc7, in each tower of this network.

        The paper's network of one GPU halved neither them nor conv5 (footnote 1), so that the number of
        parameters stays about the same.
        """
        return self.hidden * 2 // self.towers


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Ranged):
    """Augmentation of training images."""

    crops: bool = True
    """Random crops (paper 4.1). Off: the central crop."""
    crop_size: Literal[224, 227] = 224
    """Pixels along a crop (paper 4.1: 224). Caffe: 227, with --conv1-pad 0."""
    crop_area: Annotated[float | None, Range("[0.01, 1]")] = 1.0
    """Least share of the image in a random crop of any size, with sides of 3:4 to 4:3, which is resized to
    --crop-size. 1: crops of that size, not resized (paper 4.1). None: by the size of the training set."""
    flips: bool = True
    """Flip left to right at random (paper 4.1)."""
    rotation: Annotated[float, Range("[0, 45]")] = 0.0
    """Rotate each image at random by at most so many degrees. Some textbooks do it, the paper does not."""
    color_std: Annotated[float, Range("[0, 100]")] = 0.1
    """Standard deviation of the PCA colour shift, in units of each component's own (paper 4.1). 0: off."""
    color_epochs: Annotated[int | None, Range("[0, 1e6]")] = None
    """Epochs with the colour shift. None: all of them."""
    crop_group: Count = 1
    """Consecutive samples that share one crop and flip. cuda-convnet: 32."""
    mean_window: Literal["crop", "center"] = "crop"
    """Part of the mean image to subtract. crop: the crop's own. center: always the centre (cuda-convnet)."""
    divisor: Annotated[float, Range("[0.001, 1e6]")] = 1.0
    """Pixels, after the mean is subtracted, are divided by this, in training and evaluation."""
    train_divisor: Annotated[float, Range("[0.001, 1e6]")] = 1.0
    """In training they are divided by this too. cuda-convnet: 1.1."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Ranged):
    """Stochastic gradient descent with momentum (paper 5)."""

    batch_size: Count | None = None
    """Global batch size: images of all pairs together (paper: 128). None: by the size of the training set."""
    lr: Annotated[float | None, Range("(0, 1e30]")] = None
    """Learning rate (paper: 0.01). None: by the batch size; printed with the reason."""
    momentum: Annotated[float, Range("[0, 1)")] = 0.9
    """Momentum (paper 5)."""
    weight_decay: Annotated[float, Range("[0, 100]")] = 5e-4
    """Weight decay (paper 5): the momentum loses weight decay * learning rate * weight in each step."""
    conv1_decay: Annotated[float | None, Range("[0, 1e6]")] = 1.0
    """Weight decay of conv1, as a multiple of the other layers'. None: by the size of the training set."""
    bias_decay: bool = True
    """Weight decay of the biases too. cuda-convnet: no."""
    bias_lr: Annotated[float, Range("[0, 1000]")] = 1.0
    """Learning rate of the biases, as a multiple of the weights'. cuda-convnet: 2."""
    fc8_lr: Annotated[float, Range("[0, 1000]")] = 1.0
    """Learning rate of fc8, weights and biases, as a multiple of the other layers'. Caffe's recipes for
    fine-tuning on other classes: 10."""
    epochs: Count | None = None
    """Passes over the training set (paper: about 90). None: by the size of the training set."""
    schedule: Literal["cosine", "plateau", "steps"] = "cosine"
    """Learning-rate schedule. cosine: to 0 at the end. plateau: see --patience. steps: see --lr-steps."""
    patience: Count = 5
    """plateau: divide the learning rate by 10 after so many epochs without a better validation error. The
    paper divided it three times and gives no number of epochs."""
    lr_steps: tuple[Count, ...] = ()
    """steps: epochs after which the learning rate is divided by 10."""
    warmup_epochs: Annotated[float, Range("[0, 1e6]")] = 0.0
    """Warm-up: epochs over which the learning rate rises linearly from 0."""
    freeze_conv1_epoch: Annotated[int | None, Range("[0, 1e6]")] = None
    """conv1 is not updated from this epoch on (cuda-convnet, near the end)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(later <= epoch for epoch, later in pairwise(self.lr_steps)):
            steps = " ".join(map(str, self.lr_steps))
            raise UserError(f"--lr-steps must be increasing, each above the one before, not {steps}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Ranged):
    """Data, folder and length of the run."""

    store: Path = Path("data/imagenet256.zarr")
    """The zarr store that `snakemake preprocess` wrote."""
    folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Folder of the run. None: the latest unfinished run of this recipe, or a new one in runs/."""
    resume: str = "auto"
    """auto: continue where the run stopped, if it exists. never: refuse an existing run. PATH: continue from
    this checkpoint, of this run or of another one; later checkpoints of this run are set aside."""
    init_from: Path | None = None
    """Begin with the weights of a trained network (fine-tuning): a run's folder, a checkpoint's, or a file of
    trainer.export. The settings of the network and of its input are its own; so is the mean image."""
    classes: Literal["same", "new"] = "same"
    """With --init-from. same: the store has the network's classes. new: it has others, and fc8 is drawn
    anew."""
    max_steps: Annotated[int | None, Range("[1, 1e12]")] = None
    """Save, validate and end after this many steps, counted from the start of the run."""
    seed: Seed = 0
    """Seed of the initial weights, of the order of the images, of augmentation and dropout."""
    dry_run: bool = False
    """Take a few trial steps, print the memory, steps and time that this command needs, and write nothing."""
    log_every: Annotated[int, Range("[1, 1e9]")] = 10
    """Steps between two lines of metrics.jsonl."""
    figures: bool = True
    """Draw the run's figures when it is complete."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes == "new" and self.init_from is None:
            raise UserError("--classes new is for fine-tuning: add --init-from, or leave out --classes.")


@dataclass(frozen=True, kw_only=True)
class HardwareConfig(Ranged):
    """Device, precision, and the exchange between ranks."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one, else the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of the network's arithmetic; master weights and momenta are always float32. auto: bfloat16
    where the device has instructions for it."""
    deterministic: bool = False
    """On a GPU: the same step has the same bits, and float32 is computed without TF32; slower. Without it,
    gradients of pooling and of convolutions are summed in any order, so that a run that goes on after a kill
    differs in the last bits from one that was not killed. On the CPU both hold always."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the gradients that travel between pairs. bfloat16 halves the bytes; sums stay float32."""
    compile: bool = False
    """Fuse the operations between layers by torch.compile. The first start takes about a minute longer. On a
    CPU it needs a C++ compiler."""
    kernels: Literal["auto", "reference"] = "auto"
    """auto: each operation by the fastest kernel that fits. reference: plain torch for everything, slower, as
    a check."""
    transport: Literal["auto", "mpi", "torch"] = "auto"
    """How ranks exchange tensors. mpi: through host memory. torch: NCCL on GPUs, gloo on CPUs. auto: NCCL if
    each rank has its own GPU, else mpi."""
    timeout: Annotated[float, Range("[1, 1e9]")] = 300.0
    """Seconds without progress after which the job ends and names the rank that the others wait for. At least
    600 while a rank is in a phase of the work for the first time, which may compile."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Ranged):
    """When a checkpoint is saved, and how many are kept."""

    checkpoint_every: Annotated[int | None, Range("[1, 1e9]")] = None
    """Steps between checkpoints, in addition to the end of each epoch. None: only the latter."""
    keep: Count = 3
    """Number of newest checkpoints that are kept. The best one is kept too. So is the one before the newest,
    until a step from the newest has given a finite loss."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train the two towers.

    Example: mpirun -n 2 python -m trainer.run --recipe paper --epochs 90 --run runs/mine
    """

    recipe: Literal["auto", "paper", "cuda-convnet"] = "auto"
    """auto: for any store, small ones too. paper, cuda-convnet: every constant as in 2012."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


GROUPS: dict[str, Any] = {
    "network": NetworkConfig,
    "augment": AugmentConfig,
    "optim": OptimizerConfig,
    "run": RunConfig,
    "hardware": HardwareConfig,
    "checkpoint": CheckpointConfig,
}
"""The groups of `Config`; no two of them have a field of the same name."""

GROUP_OF = {f.name: group for group, kind in GROUPS.items() for f in dataclasses.fields(kind)}


def flag(name: str) -> str:
    """The command line's flag of a field."""
    return "--run" if name == "folder" else f"--{name.replace('_', '-')}"


def with_changes(config: Config, **changes: Any) -> Config:
    """Return the configuration with these fields changed; each field's group is found by its name."""
    for group in {GROUP_OF[name] for name in changes}:
        own = {name: value for name, value in changes.items() if GROUP_OF[name] == group}
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **own)})
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Convert to plain values for JSON."""
    plain = dataclasses.asdict(config)
    for name in ("store", "folder", "init_from"):
        value = plain["run"][name]
        plain["run"][name] = None if value is None else str(value)
    return plain


def from_dict(plain: Mapping[str, Any]) -> Config:
    """Convert back: the inverse of `to_dict`. Raises UserError for an unknown key or a wrong value."""
    try:
        return json_files.convert(_regrouped(plain), Config, "The configuration")
    except json_files.JsonError as error:
        raise UserError(f"{error}; this version cannot use it.") from None


def _regrouped(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Regroup the fields of version 0.1, which had run, hardware and checkpoint in one group, `session`."""
    session = plain.get("session") if isinstance(plain, Mapping) else None
    if not isinstance(session, Mapping):
        return plain
    groups: dict[str, dict[str, Any]] = {"run": {}, "hardware": {}, "checkpoint": {}}
    for old, value in session.items():
        name = "folder" if old == "run" else old
        group = GROUP_OF.get(name, "run")
        groups[group if group in groups else "run"][name] = value  # from_dict refuses an unknown key there
    return {**{key: value for key, value in plain.items() if key != "session"}, **groups}
