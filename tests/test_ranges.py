"""Every number of every command's flags: its least and largest value are taken, those beyond are refused.

A new flag that takes a number must be in the table.
"""

import dataclasses
import importlib
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from preprocess import index, shard, verify
from preprocess.shared.ranges import Range
from tests.launch import exit_code
from tests.reference import COMMANDS
from trainer import run
from trainer.cli import parse, parse_config
from trainer.config import GROUPS, AugmentConfig, NetworkConfig
from trainer.doctor.__main__ import parser as doctor
from trainer.experiments.arguments import Ablations, ReluVsTanh, Repeat
from trainer.recipes import AUTO

MILLION, BILLION = ("1000000", "1000001"), ("1000000000", "1000000001")
SEED = ("-1", "0", "9223372036854775807", "9223372036854775808")
COUNT = ("0", "1", *MILLION)
RUNS = {"--ranks": ("0", "1", "65536", "65537"), "--epochs": COUNT, "--seeds": SEED}
FROM_ZERO = ("-1", "0", *MILLION)
POSITIVE = ("0", "1e-9")
NETWORK = {
    "--filters": ("1 1 1 1 0", "1 1 1 1 1", "1024 1 1 1 1", "1025 1 1 1 1"),
    "--hidden": ("0", "1", "65536", "65537"),
    "--lrn-size": ("-1", "1", "511", "513"),
    "--lrn-k": ("0", "0.001", "1000", "1000.1"),
    "--lrn-alpha": ("-1e-9", "0", "1000", "1000.1"),
    "--lrn-beta": ("-0.1", "0", "10", "10.1"),
    "--dropout": ("-0.1", "0", "0.9", "1"),
    "--init-std": (*POSITIVE, "100", "100.1"),
    "--init-std-conv345": (*POSITIVE, "100", "100.1"),
    "--init-bias": ("-1000.1", "-1000", "1000", "1000.1"),
}
AUGMENT = {
    "--crop-area": ("0", "0.01", "1", "1.01"),
    "--rotation": ("-1", "0", "45", "45.1"),
    "--color-std": ("-0.1", "0", "100", "100.1"),
    "--color-epochs": FROM_ZERO,
    "--crop-group": COUNT,
    "--divisor": ("0", "0.001", *MILLION),
    "--train-divisor": ("0", "0.001", *MILLION),
}
EDGES = {
    "run": {
        **NETWORK,
        **AUGMENT,
        "--batch-size": COUNT,
        "--lr": ("0", "1e-30", "1e30", "inf"),
        "--momentum": ("-0.1", "0", "0.999", "1"),
        "--weight-decay": ("-1e-4", "0", "100", "100.1"),
        "--conv1-decay": ("-1", "0", *MILLION),
        "--bias-lr": ("-1", "0", "1000", "1000.1"),
        "--fc8-lr": ("-1", "0", "1000", "1000.1"),
        "--epochs": COUNT,
        "--patience": COUNT,
        "--lr-steps": ("0 1", "1 2", "1 1000000", "1 1000001"),
        "--warmup-epochs": FROM_ZERO,
        "--freeze-conv1-epoch": FROM_ZERO,
        "--max-steps": ("0", "1", "1000000000000", "1000000000001"),
        "--seed": SEED,
        "--log-every": ("0", "1", *BILLION),
        "--timeout": ("0", "1", *BILLION),
        "--checkpoint-every": ("0", "1", *BILLION),
        "--keep": COUNT,
    },
    "evaluate": {"--batch-size": ("0", "1", "65536", "65537")},
    "predict": {"--top": COUNT},
    "features": {"--batch-size": ("0", "1", "65536", "65537")},
    "watch": {"--port": ("-1", "0", "65535", "65536")},
    "timeline": {"--steps": ("0", "1", "10000", "10001"), "--batch-size": COUNT, **NETWORK},
    "import_weights": {**NETWORK, **AUGMENT},
    "figures": {"--pictures": COUNT, "--units": FROM_ZERO},
    "scaling": {
        "--gpus": ("6", "8", "1000000", "1000002"),
        "--bandwidth": (*POSITIVE, "1e6", "1e7"),
        "--latency": ("-1", "0", "1e6", "1e7"),
        "--gpus-per-host": COUNT,
        "--pair-batch": COUNT,
        "--batch-size": ("0", "1", *BILLION),
    },
    "experiments relu-vs-tanh": {
        "--relu-rates": ("0.1 0", "0.1 1e-9", "0.1 1000", "0.1 1001"),
        "--tanh-rates": ("0.1 0", "0.1 1e-9", "0.1 1000", "0.1 1001"),
        "--target": ("0", "0.01", "0.89", "0.9"),
        "--max-epochs": COUNT,
        "--images": COUNT,
        "--seed": SEED,
        "--threads": ("0", "1", "1024", "1025"),
    },
    "experiments ablations": RUNS,
    "experiments repeat": RUNS,
    "doctor": {"--ranks": ("0", "1", "1024", "1025")},
    "preprocess.index": {
        "--image-size": ("", "224", "4096", ""),  # its range is checked by plan.require_image_size
        "--shard-length": ("0", "1", "65536", "65537"),
        "--seed": SEED,
        "--validation-fraction": ("-0.1", "0", "0.99", "1"),
        "--train-per-class": ("-1", "0", *BILLION),
        "--validation-per-class": ("-1", "0", *BILLION),
    },
    "preprocess.shard": {"--workers": ("0", "1", "65536", "65537")},
    "preprocess.verify": {"--workers": ("0", "1", "65536", "65537")},
}
"""By command and flag: a value that is too small, the least, the largest, and one that is too large."""

ARGPARSE = {"doctor": doctor, **{f"preprocess.{m.__name__[11:]}": m.parser for m in (index, shard, verify)}}
REQUIRED = {
    "import_weights": ["weights.npz", "--run", "imported"],
    "preprocess.index": ["--store", "s.zarr", "--imagenet", "images"],
    "preprocess.shard": ["--store", "s.zarr"],
    "preprocess.verify": ["--store", "s.zarr"],
}
MAIN = {"figures": ".__main__", "experiments": ".__main__"}
KINDS = {
    "run": tuple(GROUPS.values()),
    "experiments relu-vs-tanh": (ReluVsTanh,),
    "experiments ablations": (Ablations,),
    "experiments repeat": (Repeat,),
}


def kinds(command: str) -> tuple[type, ...]:
    """The dataclasses of a command's flags."""
    if command in KINDS:
        return KINDS[command]
    module = importlib.import_module(COMMANDS[f"trainer.{command}"])
    kind = getattr(module, "Arguments", None) or module.Settings
    inner = (h for h in get_type_hints(kind).values() if h in (NetworkConfig, AugmentConfig))
    return (kind, *inner)


def types(hint: object) -> set[object]:
    return {hint}.union(*(types(part) for part in get_args(hint) if not isinstance(part, str | int | Range)))


def numeric_flags(command: str) -> set[str]:
    """The flags that take numbers, from the command's own declaration."""
    if command in ARGPARSE:
        return {a.option_strings[0] for a in ARGPARSE[command]()._actions if a.type not in (None, Path)}
    return {
        f"--{field.name.replace('_', '-')}"
        for kind in kinds(command)
        for field in dataclasses.fields(kind)
        if {int, float} & types(get_type_hints(kind)[field.name])
    }


@pytest.mark.parametrize("command", EDGES)
def test_every_flag_that_takes_a_number_is_in_the_table(command):
    assert numeric_flags(command) == EDGES[command].keys()


def test_every_command_is_in_the_table():
    of_trainer = {name.removeprefix("trainer.") for name in COMMANDS} - {"export"}  # has no number
    assert {*of_trainer, "run", "doctor", *(name for name in EDGES if "preprocess" in name)} == EDGES.keys()


def words(command: str, flag: str, value: str) -> list[str]:
    """The command line; a negative number could be taken for a flag."""
    if value.startswith("-"):
        return [*REQUIRED.get(command, ()), f"{flag}={value}"]
    return [*REQUIRED.get(command, ()), flag, *value.split()]


@pytest.mark.parametrize("command", EDGES)
@pytest.mark.parametrize("end", ["least", "largest"])
def test_the_ends_of_each_range_are_taken(command, end):
    line = [*REQUIRED.get(command, ())]
    for flag, edges in EDGES[command].items():
        line += words("", flag, edges[1 if end == "least" else 2])
    if command in ARGPARSE:
        ARGPARSE[command]().parse_args(line)
    elif command == "run":
        assert parse_config(line) != AUTO
    elif command == "import_weights":
        importlib.import_module("trainer.import_weights").parse_arguments(line)
    else:
        kind = kinds(command)[0]
        parse(kind, command, kind(), line)


REFUSED = [
    (command, flag, value)
    for command, flags in EDGES.items()
    for flag, (small, _, _, large) in flags.items()
    for value in (small, large, f"{'1 1 1 1 ' * (flag == '--filters')}nan")
    if value
]


def whole(command: str, flag: str) -> bool:
    """Whether a flag takes whole numbers, for which the parser itself refuses "nan"."""
    found = {
        f"--{field.name.replace('_', '-')}": types(get_type_hints(kind)[field.name])
        for kind in (() if command in ARGPARSE else kinds(command))
        for field in dataclasses.fields(kind)
    }
    return int in found.get(flag, ())


@pytest.mark.parametrize(("command", "flag", "value"), REFUSED, ids=map(" ".join, REFUSED))
def test_a_number_beyond_its_range_is_refused_in_a_sentence(command, flag, value, capsys):
    line = words(command, flag, value)
    if command in ARGPARSE:
        code = exit_code(lambda: ARGPARSE[command]().parse_args(line))
    else:
        name, *subcommand = command.split()
        module = importlib.import_module(f"trainer.{name}{MAIN.get(name, '')}")
        code = exit_code(lambda: module.main([*subcommand, *line]))
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert flag in message
    if command in ARGPARSE:
        assert code == 2
        assert message.count("error: ") == 1
    elif "nan" in value and whole(command, flag):
        assert code == 2  # a sentence of tyro's
    else:
        assert code == 1
        assert message.startswith(f"error: {flag} must be ")
        assert message.count("\n") == 1


def test_learning_rate_steps_must_increase(capsys):
    for last in ("2", "3"):
        with pytest.raises(SystemExit):
            run.main(["--lr-steps", "3", last])
        assert "error: --lr-steps must be increasing" in capsys.readouterr().err
