"""The recipes to the last constant, and configurations that come back from JSON."""

import json

import pytest

from trainer.cli import parse_config
from trainer.config import from_dict, to_dict
from trainer.errors import UserError
from trainer.recipes import AUTO, CUDA_CONVNET, PAPER, RECIPES


def test_the_papers_recipe():
    n, a, o = PAPER.network, PAPER.augment, PAPER.optim
    assert (n.lrn_k, n.lrn_size, n.lrn_alpha, n.lrn_beta) == (2, 5, 1e-4, 0.75)
    assert (n.conv1_order, n.conv2_order, n.conv2_spatial_norm) == ("relu-lrn-pool", "relu-lrn-pool", False)
    assert (n.init, n.init_std, n.init_std_conv345, n.init_bias) == ("gaussian", 0.01, 0.01, 1.0)
    assert (n.dropout, n.overlap) == (0.5, True)
    assert (a.crops, a.flips, a.color_std, a.crop_group, a.mean_window) == (True, True, 0.1, 1, "crop")
    assert (a.divisor, a.train_divisor) == (1.0, 1.0)
    assert (o.batch_size, o.lr, o.momentum, o.weight_decay) == (128, 0.01, 0.9, 0.0005)
    assert (o.bias_lr, o.bias_decay, o.schedule, o.epochs, o.warmup_epochs) == (1.0, True, "plateau", 90, 0.0)


def test_the_programs_recipe():
    n, a, o = CUDA_CONVNET.network, CUDA_CONVNET.augment, CUDA_CONVNET.optim
    assert n.lrn_alpha == pytest.approx(2e-5)
    assert (n.conv1_order, n.conv2_order, n.conv2_spatial_norm) == ("lrn-pool-relu", "relu-lrn-pool", True)
    assert (n.init_std, n.init_std_conv345) == (0.01, 0.03)
    assert (a.crop_group, a.mean_window, a.train_divisor) == (32, "center", 1.1)
    assert (o.lr * o.bias_lr, o.bias_decay) == (0.02, False)
    assert (o.schedule, o.lr_steps, o.epochs) == ("steps", (23, 51, 78), 93)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_from_json(name):
    assert from_dict(json.loads(json.dumps(to_dict(RECIPES[name])))) == RECIPES[name]


def test_an_unknown_key_is_an_error():
    plain = to_dict(AUTO)
    plain["optim"]["learning_rate"] = 1.0
    with pytest.raises(UserError, match="learning_rate"):
        from_dict(plain)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("network", "hidden", "2048"),
        ("network", "hidden", True),
        ("network", "hidden", 2048.5),
        ("network", "lrn", 1),
        ("network", "lrn_k", []),
        ("network", "lrn_k", float("inf")),
        ("network", "filters", [48, 128, 192, 192]),
        ("network", "filters", [48, 128, 192, 192, "128"]),
        ("network", "towers", True),
        ("network", "conv1_order", "pool"),
        ("optim", "lr", {}),
        ("optim", "lr_steps", [[1]]),
        ("run", "store", 3),
        ("run", "seed", None),
    ],
)
def test_a_value_of_another_type_is_one_sentence(group, name, value):
    plain = to_dict(AUTO)
    plain[group][name] = value
    with pytest.raises(UserError, match=rf"^The configuration has {group}\.{name} = .*, which is not .*\.$"):
        from_dict(plain)


@pytest.mark.parametrize("group", ["network", "run"])
@pytest.mark.parametrize("value", [None, [], 3, "text", [["hidden", 3]]])
def test_a_group_that_is_no_object_is_one_sentence(group, value):
    with pytest.raises(UserError, match=f"^The configuration has {group} = .* which is not an object"):
        from_dict(to_dict(AUTO) | {group: value})


@pytest.mark.parametrize(
    "value", [None, [], 3, {"session": []}, {"session": {"hidden": 3}}, {"run": {"hidden": 3}}]
)
def test_what_is_no_configuration_is_one_sentence(value):
    with pytest.raises(UserError, match=r"^The configuration (is|has) .*; this version cannot use it\.$"):
        from_dict(value)


def test_flags_change_the_recipe_that_they_follow():
    config = parse_config(["--lr", "0.02", "--recipe", "cuda-convnet", "--no-flips"])
    assert config.recipe == "cuda-convnet"
    assert config.optim.lr == 0.02
    assert config.optim.bias_lr == 2.0
    assert config.augment.flips is False
    assert parse_config([]) == AUTO


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch-size", "0"],
        ["--dropout", "1"],
        ["--lr", "-1"],
        ["--lrn-size", "4"],
        ["--lrn-size", "-1"],
        ["--filters", "48", "0", "192", "192", "128"],
        ["--hidden", "0"],
    ],
    ids=" ".join,
)
def test_a_value_out_of_range_is_one_sentence(flags):
    with pytest.raises(UserError, match=flags[0]):
        parse_config(flags)
