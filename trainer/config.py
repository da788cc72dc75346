"""The whole configuration: frozen, one flag a field, checked once where it is made.

The defaults are the paper's; recipes.py has what each recipe changes. "Paper" with a number is a section of
Krizhevsky, Sutskever, Hinton (2012), "the program" the public cuda-convnet configuration 145.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trainer.errors import UserError

Order = Literal["relu-lrn-pool", "lrn-pool-relu", "lrn-relu-pool"]


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise UserError(sentence)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The towers."""

    towers: Literal[1, 2] = 2
    """1: the paper's network on one GPU (3.2): one tower, with conv5, fc6 and fc7 as wide as both had."""
    dense: bool = False
    """conv2, conv4 and conv5 read both towers too: 62,378,344 parameters, as many textbooks count."""
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    """What every unit computes (paper 3.1); the orders below say "relu" for any of them."""
    filters: tuple[int, int, int, int, int] = (48, 128, 192, 192, 128)
    """Filters of conv1 to conv5 in one tower (paper 3.5: half of 96, 256, 384, 384, 256)."""
    hidden: int = 2048
    """Units of fc6 and of fc7 in one tower (paper 3.5: half of 4096)."""
    lrn: bool = True
    """Local response normalisation after conv1 and conv2 (paper 3.3)."""
    lrn_size: int = 5
    """n, the channels that the normalisation sums over."""
    lrn_k: float = 2.0
    """k, what the normalisation adds to the sum."""
    lrn_alpha: float = 1e-4
    """alpha, the factor of the sum itself. The program used a fifth of the paper's 1e-4."""
    lrn_beta: float = 0.75
    """beta, the power of the denominator."""
    conv1_order: Order = "relu-lrn-pool"
    """Order after conv1; the program ran lrn-pool-relu, some textbooks write lrn-relu-pool."""
    conv2_order: Order = "relu-lrn-pool"
    """Order after conv2."""
    conv2_spatial_norm: bool = False
    """A second normalisation after conv2's, over 5x5 pixels of one map (the program; not in the paper)."""
    overlap: bool = True
    """Pool 3x3 windows two pixels apart (paper 3.4); off: 2x2 windows that do not overlap."""
    dropout: float = 0.5
    """Probability that a unit of fc6 or fc7 is silent in training (paper 4.2); 0 turns dropout off."""
    init: Literal["gaussian", "scaled"] = "gaussian"
    """gaussian: N(0, init_std), the paper's. scaled: by each layer's inputs, so that small sets learn too."""
    init_std: float = 0.01
    """Standard deviation of the initial weights (paper 5)."""
    init_std_conv345: float = 0.01
    """The same for conv3, conv4 and conv5; the program used 0.03."""
    init_bias: float = 1.0
    """Initial biases of conv2, conv4, conv5, fc6 and fc7; all others start at 0 (paper 5)."""

    def __post_init__(self) -> None:
        _check(0 <= self.dropout < 1, f"--dropout must lie in [0, 1), not {self.dropout}.")
        odd = self.lrn_size >= 1 and self.lrn_size % 2 == 1
        _check(odd, f"--lrn-size must be odd and at least 1, not {self.lrn_size}.")
        _check(min(self.filters) >= 1, f"--filters must be at least 1 each, not {self.filters}.")
        _check(self.hidden >= 1, f"--hidden must be at least 1, not {self.hidden}.")
        _check(not self.dense or self.towers == 2, "--dense joins two towers: leave out --towers 1.")

    @property
    def tower_filters(self) -> tuple[int, int, int, int, int]:
        """Filters of conv1 to conv5 in each tower that there is."""
        *others, conv5 = self.filters
        return (*others, conv5 * 2 // self.towers)  # type: ignore[return-value]

    @property
    def tower_hidden(self) -> int:
        """Units of fc6, and of fc7, in each tower that there is. The paper's network of one GPU halved
        neither them nor conv5 (footnote 1), to keep about the number of parameters."""
        return self.hidden * 2 // self.towers


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What a training picture goes through."""

    crops: bool = True
    """Random 224x224 crops (paper 4.1); off: the central one."""
    flips: bool = True
    """Random mirror images (paper 4.1)."""
    rotation: float = 0.0
    """Turn each picture by up to so many degrees either way; some textbooks list it, the paper does not."""
    color_std: float = 0.1
    """Standard deviation of the PCA colour shift in units of each component's own (paper 4.1); 0 is off."""
    color_epochs: int | None = None
    """Epochs with colour shift; none: all of them."""
    crop_group: int = 1
    """Consecutive samples that share one crop and flip; the program used 32."""
    mean_window: Literal["crop", "center"] = "crop"
    """Which part of the mean image is subtracted: the crop's own, or always the centre (the program)."""
    divisor: float = 1.0
    """Pixels less the mean are divided by this, in training and evaluation."""
    train_divisor: float = 1.0
    """And by this in training alone; the program used 1.1."""

    def __post_init__(self) -> None:
        _check(0 <= self.rotation <= 45, f"--rotation must lie in 0..45 degrees, not {self.rotation}.")
        _check(self.color_std >= 0, f"--color-std must not be negative, as {self.color_std} is.")
        _check(self.crop_group >= 1, f"--crop-group must be at least 1, not {self.crop_group}.")
        _check(self.divisor > 0 and self.train_divisor > 0, "--divisor and --train-divisor must be positive.")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Stochastic gradient descent with momentum (paper 5)."""

    batch_size: int | None = None
    """Global batch, images over all pairs (paper: 128). None: chosen by the size of the training set."""
    lr: float | None = None
    """Learning rate (paper: 0.01). None: chosen from the batch; printed with the reason."""
    momentum: float = 0.9
    """Momentum (paper 5)."""
    weight_decay: float = 5e-4
    """Weight decay; inside the velocity and multiplied by the rate, as the paper writes it."""
    bias_decay: bool = True
    """Whether biases decay too; the program's did not."""
    bias_lr: float = 1.0
    """Rate of the biases in units of the weights'; the program used 2."""
    epochs: int | None = None
    """Passes over the training set (paper: about 90). None: chosen by the size of the training set."""
    schedule: Literal["cosine", "plateau", "steps"] = "cosine"
    """cosine: falls to 0 at the end. plateau: see --patience. steps: see --lr-steps."""
    patience: int = 5
    """plateau: divide the rate by 10 after so many epochs without a better validation error; the paper
    divided three times and gives no number of epochs."""
    lr_steps: tuple[int, ...] = ()
    """steps: epochs after which the rate is divided by 10."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises in a straight line from 0."""
    freeze_conv1_epoch: int | None = None
    """conv1 stays as it is from this epoch on (the program, near the end)."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"--{name.replace('_', '-')} must be positive, not {value}.")
        _check(self.lr is None or self.lr > 0, f"--lr must be positive, not {self.lr}.")
        _check(0 <= self.momentum < 1, f"--momentum must lie in [0, 1), not {self.momentum}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What is trained on, where it is kept, and for how long."""

    store: Path = Path("data/imagenet256.zarr")
    """The store that `snakemake preprocess` wrote."""
    folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Folder of the run. None: the unfinished run of this recipe, or a new one in runs/."""
    resume: str = "auto"
    """auto: continue where the run stopped, if it exists. never: refuse an existing run. PATH: continue from
    this checkpoint, of this run or another; later ones of this run are set aside."""
    max_steps: int | None = None
    """Stop, save and validate after this many steps in all."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, augmentation and dropout."""
    dry_run: bool = False
    """Show memory, steps and time of this command, from a few trial steps; write nothing."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    figures: bool = True
    """Draw the run's figures when it is complete."""


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """How it is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; weights and momentum are float32 always. auto: bfloat16 where it is fast."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of gradients between pairs; bfloat16 halves the bytes, sums are still float32."""
    compile: bool = False
    """Fuse the operations between layers by torch.compile, which takes a minute at the first start; a CPU
    needs a C++ compiler for it."""
    kernels: Literal["auto", "reference"] = "auto"
    """auto: each operation by the fastest kernel that fits. reference: plain torch for everything, slower, as
    a check."""
    transport: Literal["auto", "mpi", "torch"] = "auto"
    """How ranks exchange tensors. mpi: through host memory. torch: NCCL on GPUs, gloo on CPUs. auto: NCCL
    where each rank has a GPU to itself, else mpi."""
    timeout: float = 300.0
    """Seconds without progress after which the job ends, naming the rank that the others wait for; until the
    first step is done at least 600, for its loops may be compiled."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the network is saved, and what is kept."""

    checkpoint_every: int | None = None
    """Steps between checkpoints. None: at the end of each epoch only."""
    keep: int = 3
    """Newest checkpoints that are kept. The best one is kept too, and the one before the newest until a step
    has been taken from the newest."""

    def __post_init__(self) -> None:
        _check(self.keep >= 1, f"--keep must be at least 1, not {self.keep}.")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train the two towers: everything that a run is made of.

    Example: mpirun -n 2 python -m trainer.run --recipe paper --epochs 90 --run runs/mine
    """

    recipe: Literal["auto", "paper", "cuda-convnet"] = "auto"
    """auto: learns on any store, small ones too. paper, cuda-convnet: as in 2012, to the last constant."""
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
    """The same configuration with these fields changed, whichever group each is in."""
    for group in {GROUP_OF[name] for name in changes}:
        own = {name: value for name, value in changes.items() if GROUP_OF[name] == group}
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **own)})
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values for JSON."""
    plain = dataclasses.asdict(config)
    for name in ("store", "folder"):
        value = plain["run"][name]
        plain["run"][name] = None if value is None else str(value)
    return plain


def from_dict(plain: Mapping[str, Any]) -> Config:
    """The inverse of `to_dict`. Raises UserError for a key that is not known."""
    values: dict[str, Any] = _regrouped(plain)
    try:
        for group in GROUPS.keys() & values.keys():
            fields: dict[str, Any] = dict(values[group])
            fields |= {k: tuple(v) for k, v in fields.items() if isinstance(v, list)}
            for name in {"store", "folder"} & fields.keys():
                fields[name] = None if fields[name] is None else Path(fields[name])
            values[group] = GROUPS[group](**fields)
        return Config(**values)
    except TypeError as error:
        raise UserError(f"The configuration has a key that this version does not know: {error}.") from None


def _regrouped(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Runs of version 0.1 keep run, hardware and checkpoint in one group, `session`."""
    values = dict(plain)
    for old, value in values.pop("session", {}).items():
        name = "folder" if old == "run" else old
        group = GROUP_OF.get(name, "run")  # an unknown key is refused there
        values[group] = {**values.get(group, {}), name: value}
    return values
