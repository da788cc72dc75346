"""The flags of the experiments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from preprocess.shared.ranges import Count, Range, Seed
from trainer.config import Ranged
from trainer.errors import UserError

Activation = Literal["relu", "tanh"]
Rate = Annotated[float, Range("(0, 1000]")]
Part = Literal["lrn", "overlap", "dropout", "colour", "towers", "crops", "relu"]


@dataclass(frozen=True, kw_only=True)
class ReluVsTanh(Ranged):
    """Epochs to 25 % training error with ReLU and with tanh: the paper's Figure 1.

    For each activation all learning rates are trained for 1 epoch, the best three for 3, the best two for 9,
    the best one to the end.

    Example: python -m trainer.experiments relu-vs-tanh --data cifar-10-binary.tar.gz
    """

    data: Path | None = None
    """CIFAR-10, binary version or images, a folder or a tar. None: searched for in data/."""
    out: Path = Path("runs/relu-vs-tanh")
    """Folder of the weights, the curves and the figure."""
    activations: tuple[Activation, ...] = ("relu", "tanh")
    """Activations to train. The figure shows the other one too if --out has its curve with these settings."""
    relu_rates: tuple[Rate, ...] = (0.001, 0.002, 0.004, 0.008)
    """Learning rates to try for ReLU; that of the biases is twice as high."""
    tanh_rates: tuple[Rate, ...] = (0.004, 0.008, 0.016, 0.032)
    """Learning rates to try for tanh."""
    target: Annotated[float, Range("(0, 0.9)")] = 0.25
    """Training error to reach, a fraction; that of a random guess is 0.9."""
    max_epochs: Count = 60
    """Stop after this number of epochs."""
    images: Count | None = None
    """Number of training images to use. None: all 50,000."""
    seed: Seed = 0
    """Seed of the initial weights and of the order of the images."""
    threads: Annotated[int, Range("[1, 1024]")] = 1
    """Threads; the network is too small for many."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; weights are float32. auto: bfloat16 where the processor has it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.relu_rates and self.tanh_rates and self.activations):
            raise UserError("Give at least one rate of each kind, and at least one activation.")


@dataclass(frozen=True, kw_only=True)
class Runs(Ranged):
    """The flags of experiments that train with `trainer.run`."""

    store: Path = Path("data/imagenet256.zarr")
    """The store that `snakemake preprocess` wrote."""
    out: Path = Path("runs/experiment")
    """Folder for the runs, the table and the figure."""
    ranks: Annotated[int, Range("[1, 65536]")] = 1
    """Ranks of each run, started by mpirun; 1: one process without mpirun."""
    epochs: Count | None = None
    """Epochs of each run. None: the recipe's number for this store."""
    recipe: Literal["auto", "paper", "cuda-convnet"] = "auto"
    """Recipe of all runs."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds; each trains networks of its own."""
    flags: str = ""
    """More flags of trainer.run for all runs, in quotes: --flags="--batch-size 64 --precision float32"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError("Give at least one seed, and each seed once.")


@dataclass(frozen=True, kw_only=True)
class Ablations(Runs):
    """Error without each part of the network and of its training, next to the paper's numbers.

    Example: python -m trainer.experiments ablations --ranks 2 --epochs 10
    """

    parts: tuple[Part, ...] = get_args(Part)
    """Parts to leave out, each in runs of its own."""
    out: Path = Path("runs/ablations")
    """Folder for the runs, the table and the figure."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise UserError("Give at least one part to leave out.")


@dataclass(frozen=True, kw_only=True)
class Repeat(Runs):
    """The same training with several seeds: errors, time, and the filters of conv1, with their spread.

    Example: python -m trainer.experiments repeat --ranks 2 --seeds 0 1 2 3 4
    """

    out: Path = Path("runs/repeat")
    """Folder for the runs, the table and the figure."""
