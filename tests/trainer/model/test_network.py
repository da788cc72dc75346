"""The towers against the paper's counts and against a plain grouped network of torch's own layers."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from trainer.config import NetworkConfig
from trainer.model.dropout import dropout_masks
from trainer.model.initial_weights import build_tower
from trainer.model.network import LAYERS, TOWERS, Tower, TwoTowerAlexNet
from trainer.model.operations import Operation, operations_after, spatial_norm
from trainer.recipes import AUTO, CUDA_CONVNET
from trainer.training.optimizer import flatten

# Section 3.5 of the paper, counted by hand: both towers together.
PARAMETERS = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}
SMALL = NetworkConfig(filters=(6, 8, 12, 12, 8), hidden=20, dropout=0.0)


def test_parameters_layer_by_layer_are_the_papers():
    with torch.device("meta"):
        towers = [Tower(NetworkConfig(), 1000, name) for name in TOWERS]
    counts = {
        layer: sum(p.numel() for tower in towers for p in getattr(tower, layer).parameters())
        for layer in LAYERS
    }
    assert counts == PARAMETERS
    assert sum(counts.values()) == 60_965_224


class Grouped(nn.Module):
    """One device, groups=2, as most re-implementations write it, but with LRN inside each group."""

    def __init__(self, s: NetworkConfig, classes: int) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (2 * c for c in s.filters)
        self.conv1 = nn.Conv2d(3, c1, 11, 4)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(c5 * 36, 2 * s.hidden)
        self.fc7 = nn.Linear(2 * s.hidden, 2 * s.hidden)
        self.fc8 = nn.Linear(2 * s.hidden, classes)

    def norm(self, x):
        return torch.cat([F.local_response_norm(half, 5, 5e-4, 0.75, 2.0) for half in x.chunk(2, 1)], 1)

    def forward(self, x):
        x = F.pad(x, (0, 3, 0, 3))
        x = F.max_pool2d(self.norm(F.relu(self.conv1(x))), 3, 2)
        x = F.max_pool2d(self.norm(F.relu(self.conv2(x))), 3, 2)
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, 2).flatten(1)
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x)))))


def transplant(two: TwoTowerAlexNet, grouped: Grouped) -> None:
    """Outputs of tower a come first in every layer; fc8 takes a's inputs, then b's."""
    with torch.no_grad():
        for layer in LAYERS:
            a, b, target = (getattr(m, layer) for m in (two.a, two.b, grouped))
            target.weight.copy_(torch.cat([a.weight, b.weight], dim=1 if layer == "fc8" else 0))
            target.bias.copy_(a.bias if layer == "fc8" else torch.cat([a.bias, b.bias]))


def two_towers(settings: NetworkConfig, classes: int, seed: int = 0) -> TwoTowerAlexNet:
    network = TwoTowerAlexNet(settings, classes)
    for tower in (network.a, network.b):
        tower.load_state_dict(build_tower(settings, classes, tower.name, seed).state_dict())
    return network


def test_equals_a_grouped_network_in_float64_with_all_gradients():
    two, grouped = two_towers(SMALL, 10).double(), Grouped(SMALL, 10).double()
    transplant(two, grouped)
    images = torch.randn(3, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 60
    labels = torch.tensor([1, 5, 9])
    ours, theirs = two(images), grouped(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)

    F.cross_entropy(ours, labels).backward()
    F.cross_entropy(theirs, labels).backward()
    for layer in LAYERS:
        a, b, expected = (getattr(m, layer).weight.grad for m in (two.a, two.b, grouped))
        joined = torch.cat([a, b], dim=1 if layer == "fc8" else 0)
        scale = expected.abs().max().item()
        torch.testing.assert_close(joined, expected, rtol=0, atol=1e-12 * scale, msg=layer)


class OfAnotherProgram(Grouped):
    """The single-device network as Caffe defines it: LRN over all channels, pooling that rounds up.

    The ONNX zoo's bvlcalexnet rounds down after conv1 and conv2.
    """

    def __init__(self, s: NetworkConfig, classes: int) -> None:
        super().__init__(s, classes)
        self.orders = s.conv1_order, s.conv2_order
        self.up = s.pool_rounding == "up"
        self.round_up = s.pool_rounding == "up"

    def forward(self, x):
        # Caffe's alpha is divided by n = 5, as torch's is: 0.05 is a factor of 0.01 of each square.
        after = {
            "relu": F.relu,
            "lrn": lambda x: F.local_response_norm(x, 5, 0.05, 0.75, 1.0),
            "pool": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=self.round_up),
        }
        for layer, order in zip((self.conv1, self.conv2), self.orders, strict=True):
            x = layer(x)
            for operation in order.split("-"):
                x = after[operation](x)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, 2, ceil_mode=True).flatten(1)
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x)))))


@pytest.mark.parametrize("order", ["relu-lrn-pool", "relu-pool-lrn"])
@pytest.mark.parametrize(
    ("pixels", "rounding"),
    [(227, "up"), (224, "up"), (224, "down")],  # 55 x 55, 54 x 54 and 54 x 54 outputs of conv1
)
def test_equals_other_programs_networks_in_float64_with_all_gradients(order, pixels, rounding):
    orders = {"conv1_order": order, "conv2_order": order}
    constants = {
        "lrn_over": "both",
        "lrn_k": 1.0,
        "lrn_alpha": 0.01,
        "inverted_dropout": True,
        "dropout": 0.5,
    }
    settings = dataclasses.replace(SMALL, conv1_pad=0, pool_rounding=rounding, **orders, **constants)
    two, theirs = two_towers(settings, 10).double(), OfAnotherProgram(settings, 10).double()
    transplant(two, theirs)
    images = torch.randn(2, 3, pixels, pixels, dtype=torch.float64) * 60
    found, expected = two(images), theirs(images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    found.square().sum().backward()
    expected.square().sum().backward()
    for layer in LAYERS:
        a, b, right = (getattr(m, layer).weight.grad for m in (two.a, two.b, theirs))
        joined = torch.cat([a, b], dim=1 if layer == "fc8" else 0)
        torch.testing.assert_close(joined, right, rtol=0, atol=1e-12 * right.abs().max().item(), msg=layer)


def test_inverted_dropout_divides_what_it_keeps():
    settings = dataclasses.replace(SMALL, dropout=0.75, inverted_dropout=True)
    tower = build_tower(settings, 10, "a", seed=0)
    reached = {}
    tower.fc8.register_forward_pre_hook(lambda module, given: reached.update(x=given[0]))
    x = torch.randn(4, 2 * settings.hidden, generator=torch.Generator().manual_seed(0))
    last = len(tower.stages) - 1
    keep = torch.rand(4, settings.hidden, generator=torch.Generator().manual_seed(1)) < 0.5
    with torch.no_grad():
        tower.stage(last, x)
        plain = F.relu(F.linear(x, tower.fc7.weight, tower.fc7.bias))
        torch.testing.assert_close(reached["x"], plain)
        tower.stage(last, x, lambda layer: keep)
    torch.testing.assert_close(reached["x"], torch.where(keep, 4 * plain, 0.0))


def test_full_width_equals_the_grouped_network_in_float32():
    settings = NetworkConfig(dropout=0.0)
    two, grouped = two_towers(settings, 1000), Grouped(settings, 1000)
    transplant(two, grouped)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 60
    with torch.no_grad():
        ours, theirs = two(images), grouped(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_every_layer_has_the_papers_shape():
    with torch.device("meta"):  # shapes alone: nothing is computed
        two, images = TwoTowerAlexNet(NetworkConfig(), 1000), torch.empty(2, 3, 224, 224)
    found = {}
    for layer in LAYERS:
        for name, tower in (("a", two.a), ("b", two.b)):
            getattr(tower, layer).register_forward_hook(
                lambda m, given, out, at=(layer, name): found.update(
                    {at: (tuple(given[0].shape[1:]), tuple(out.shape[1:]))}
                )
            )
    assert two(images).shape == (2, 1000)
    # Section 3.5 by hand: pools 55 -> 27, 27 -> 13, 13 -> 6; conv3, fc6 and fc7 read both towers, fc8 its
    # share.
    expected = {
        "conv1": ((3, 224, 224), (48, 55, 55)),
        "conv2": ((48, 27, 27), (128, 27, 27)),
        "conv3": ((256, 13, 13), (192, 13, 13)),
        "conv4": ((192, 13, 13), (192, 13, 13)),
        "conv5": ((192, 13, 13), (128, 13, 13)),
        "fc6": ((256 * 6 * 6,), (2048,)),
        "fc7": ((4096,), (2048,)),
        "fc8": ((2048,), (1000,)),
    }
    assert found == {(layer, tower): shapes for layer, shapes in expected.items() for tower in "ab"}


def test_conv1_gives_55_by_55_and_reads_zeros_right_and_below():
    tower = build_tower(SMALL, 10, "a", seed=0)
    maps = {}
    tower.conv1.register_forward_hook(lambda module, given, out: maps.update(conv1=out))
    images = torch.zeros(1, 3, 224, 224, requires_grad=True)
    tower.stage(0, images)
    conv1 = maps["conv1"]
    assert conv1.shape[2:] == (55, 55)

    def pixels_seen_by(row: int, column: int) -> tuple[int, int, int, int]:
        (grad,) = torch.autograd.grad(conv1[0, :, row, column].sum(), images, retain_graph=True)
        rows, columns = grad[0].abs().sum(0).nonzero(as_tuple=True)
        return rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()

    # Window i begins at pixel 4 i: the first at 0, the last at 216, of whose 11 pixels 3 lie beyond 223.
    assert pixels_seen_by(0, 0) == (0, 10, 0, 10)
    assert pixels_seen_by(54, 54) == (216, 223, 216, 223)
    assert pixels_seen_by(0, 54) == (0, 10, 216, 223)


def test_initial_weights_are_the_recipes():
    tower = build_tower(CUDA_CONVNET.network, 1000, "a", seed=3)
    for layer in LAYERS:
        expected = 0.03 if layer in ("conv3", "conv4", "conv5") else 0.01
        assert getattr(tower, layer).weight.std().item() == pytest.approx(expected, rel=0.03), layer
        bias = 1.0 if layer in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
        assert (getattr(tower, layer).bias == bias).all(), layer


def test_scaled_weights_start_by_the_number_of_their_inputs():
    tower = build_tower(AUTO.network, 1000, "a", seed=3)
    # sqrt(2 / inputs); times 2^0.75 after LRN, times sqrt(2) after dropout; and the factors of three layers.
    expected = {
        "conv1": 0.1 * (2 / 363) ** 0.5,
        "conv2": 2**0.75 * (2 / 1200) ** 0.5,
        "conv3": 2**0.75 * (2 / 2304) ** 0.5,
        "conv4": (2 / 1728) ** 0.5,
        "conv5": (2 / 1728) ** 0.5,
        "fc6": (2 / 9216) ** 0.5,
        "fc7": 0.1 * (4 / 4096) ** 0.5,
        "fc8": 3 * (4 / 4096) ** 0.5,
    }
    for layer in LAYERS:
        found = getattr(tower, layer)
        assert found.weight.std().item() == pytest.approx(expected[layer], rel=0.03), layer
        assert found.bias is None or not found.bias.any(), layer


def test_the_towers_start_different_and_the_same_in_every_process():
    a, again, b = (build_tower(SMALL, 10, name, seed=0) for name in ("a", "a", "b"))
    assert torch.equal(a.conv1.weight, again.conv1.weight)
    assert not torch.equal(a.conv1.weight, b.conv1.weight)
    assert b.fc8.bias is None


def test_dropout_sets_to_zero_in_training_and_halves_in_evaluation():
    settings = NetworkConfig(filters=(6, 8, 12, 12, 8), hidden=400, dropout=0.5)
    tower = build_tower(settings, 10, "a", seed=0)
    x = torch.rand(2, 16, 6, 6)
    y = F.relu(tower.fc6(x.flatten(1)))
    masks = dropout_masks(settings, "a", 0, 7, torch.tensor([4, 5]), torch.device("cpu"))
    assert torch.equal(tower.stage(2, x, masks), y * masks("fc6"))
    assert torch.equal(tower.stage(2, x), y * 0.5)


def test_dropout_depends_on_sample_step_layer_and_unit_alone():
    s = NetworkConfig()

    def mask(name, step, positions, layer="fc6"):
        return dropout_masks(s, name, 1, step, torch.tensor(positions), torch.device("cpu"))(layer)

    everything = mask("a", 3, [0, 1, 2, 3])
    assert torch.equal(mask("a", 3, [2, 3]), everything[2:])
    for other in (mask("b", 3, [0, 1, 2, 3]), mask("a", 4, [0, 1, 2, 3]), mask("a", 3, [0, 1, 2, 3], "fc7")):
        # Two independent fair masks of 8192 units agree on half of them, +- 5 sigma = 2.8 %.
        assert (other == everything).float().mean().item() == pytest.approx(0.5, abs=0.028)
    assert everything.float().mean().item() == pytest.approx(0.5, abs=0.028)


def test_flat_stages_hold_the_very_memory_of_the_layers():
    tower = build_tower(SMALL, 10, "a", seed=0)
    before = {name: p.clone() for name, p in tower.named_parameters()}
    stages = flatten(tower)
    for name, p in tower.named_parameters():
        assert torch.equal(p, before[name])
    stages[0].master_weights.zero_()
    assert not tower.conv1.weight.any()
    assert not tower.conv2.bias.any()
    assert tower.conv3.weight.any()


@pytest.mark.parametrize("order", ["relu-lrn-pool", "lrn-pool-relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("filters", [(6, 8, 12, 12, 8), (32, 32, 32, 32, 32)])
def test_a_tower_that_is_watched_has_the_bits_of_one_that_is_not(order, dtype, filters):
    settings = NetworkConfig(filters=filters, hidden=32, conv1_order=order)
    draw = torch.Generator().manual_seed(5)
    images = torch.randn(3, 3, 224, 224, generator=draw)
    both = torch.randn(3, 2 * filters[1], 13, 13, generator=draw).to(dtype)
    results, shown = [], []
    for watch in (None, lambda layer, y: shown.append((layer, y.min() >= 0))):
        tower = build_tower(settings, 10, "a", seed=0).to(dtype)
        tower.watch = watch
        for stage, x in enumerate((images, both)):
            y = tower.stage(stage, x)
            y.backward(y.detach())
            results.append(y)
        results += [p.grad for name, p in tower.named_parameters() if name.startswith("conv")]
    assert shown == [(f"conv{i}", True) for i in range(1, 6)]
    half = len(results) // 2
    assert half == 12
    assert all(map(torch.equal, results[:half], results[half:]))


RELU, LRN = Operation("activation"), Operation("lrn")
POOL = Operation("pool", window=3, round_up=True)
PARSED = {
    "the paper's": ({}, "conv1", (Operation("lrn", relu=True, window=3),)),
    "windows that do not overlap": ({"overlap": False}, "conv1", (Operation("lrn", relu=True, window=2),)),
    "the program's conv1": (
        {"conv1_order": "lrn-pool-relu"},
        "conv1",
        (Operation("lrn", window=3), RELU),
    ),
    "the program's conv2": (
        {"conv2_spatial_norm": True},
        "conv2",
        (Operation("lrn", relu=True), Operation("spatial norm"), POOL),
    ),
    "a textbook's": (
        {"conv1_order": "lrn-relu-pool"},
        "conv1",
        (LRN, RELU, POOL),
    ),
    "without LRN": (
        {"lrn": False, "conv2_spatial_norm": True},
        "conv2",
        (RELU, POOL),
    ),
    "tanh": ({"activation": "tanh"}, "conv1", (RELU, LRN, POOL)),
    "conv3": ({}, "conv3", (RELU,)),
    "conv5": ({}, "conv5", (RELU, POOL)),
    "fc6": ({}, "fc6", (RELU, Operation("dropout"))),
    "fc7 without dropout": ({"dropout": 0.0}, "fc7", (RELU,)),
}


@pytest.mark.parametrize(("changes", "layer", "expected"), PARSED.values(), ids=PARSED)
def test_operations_that_one_kernel_computes_are_joined(changes, layer, expected):
    assert operations_after(NetworkConfig(**changes), layer) == expected


def test_spatial_window_sums_one_map_and_zeros_beyond_its_border():
    a = np.random.default_rng(4).normal(scale=40, size=(1, 2, 6, 6))
    ours = spatial_norm(torch.from_numpy(a), 5, 2.0, 0.001 / 25, 0.75).numpy()
    for y in range(6):
        for x in range(6):
            window = a[0, 1, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            expected = a[0, 1, y, x] / (2 + 0.001 / 25 * (window**2).sum()) ** 0.75
            assert ours[0, 1, y, x] == pytest.approx(expected, rel=1e-12)


def test_the_spatial_gradient_equals_finite_differences():
    x = torch.randn(2, 7, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert gradcheck(lambda t: spatial_norm(t, 5, 2.0, 0.3, 0.75), x.requires_grad_())
