"""Each switch of the network and of augmentation changes one thing, and that to what its name says."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from trainer.config import AugmentConfig, NetworkConfig
from trainer.data.augmentation import Views, crop, draw, fixed
from trainer.errors import UserError
from trainer.model.initial_weights import build_tower
from trainer.model.network import LAYERS, TOWERS, Tower, TwoTowerAlexNet
from trainer.recipes import PAPER

SMALL = NetworkConfig(filters=(6, 8, 12, 12, 8), hidden=20, dropout=0.0)
IMAGES = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 60

# Counted by hand, weights and biases: section 3.5 with all channels of the layer before, and one tower with
# conv5, fc6 and fc7 of both (section 3.2, footnote 1).
DENSE = {"conv2": 614_656, "conv4": 1_327_488, "conv5": 884_992}
ONE_TOWER = {
    "conv1": 17_472,
    "conv2": 153_728,
    "conv3": 221_376,
    "conv4": 331_968,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}


def parameters(settings: NetworkConfig) -> dict[str, int]:
    with torch.device("meta"):
        towers = [Tower(settings, 1000, name) for name in TOWERS[: settings.towers]]
    return {layer: sum(p.numel() for t in towers for p in getattr(t, layer).parameters()) for layer in LAYERS}


def test_the_dense_network_has_the_textbooks_parameters():
    found = parameters(NetworkConfig(dense=True))
    assert {layer: found[layer] for layer in DENSE} == DENSE
    assert sum(found.values()) == 62_378_344


def test_one_tower_has_the_footnotes_parameters():
    assert parameters(NetworkConfig(towers=1)) == ONE_TOWER


def network(settings: NetworkConfig) -> TwoTowerAlexNet:
    reference = TwoTowerAlexNet(settings, 10)
    for tower in reference.towers:
        tower.load_state_dict(build_tower(settings, 10, tower.name, seed=0).state_dict())
    return reference


class Plain(nn.Module):
    """The network written with torch's own layers: dense, or a single tower."""

    def __init__(self, reference: TwoTowerAlexNet, activation=F.relu) -> None:
        super().__init__()
        towers, self.activation = reference.towers, activation
        for layer in LAYERS:
            modules = [getattr(t, layer) for t in towers]
            weight = torch.cat([m.weight for m in modules], dim=1 if layer == "fc8" else 0)
            bias = modules[0].bias if layer == "fc8" else torch.cat([m.bias for m in modules])
            setattr(self, layer, (weight.detach(), bias.detach()))
        self.halves = len(towers)

    def norm(self, x):
        return torch.cat([F.local_response_norm(h, 5, 5e-4, 0.75, 2.0) for h in x.chunk(self.halves, 1)], 1)

    def forward(self, x):
        f = self.activation
        x = F.conv2d(F.pad(x, (0, 3, 0, 3)), *self.conv1, stride=4)
        x = F.max_pool2d(self.norm(f(x)), 3, 2)
        x = F.max_pool2d(self.norm(f(F.conv2d(x, *self.conv2, padding=2))), 3, 2)
        x = f(F.conv2d(x, *self.conv3, padding=1))
        x = f(F.conv2d(x, *self.conv4, padding=1))
        x = F.max_pool2d(f(F.conv2d(x, *self.conv5, padding=1)), 3, 2).flatten(1)
        return F.linear(f(F.linear(f(F.linear(x, *self.fc6)), *self.fc7)), *self.fc8)


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        (dataclasses.replace(SMALL, dense=True), F.relu),
        (dataclasses.replace(SMALL, towers=1), F.relu),
        (dataclasses.replace(SMALL, towers=1, activation="tanh"), torch.tanh),
        (dataclasses.replace(SMALL, dense=True, activation="sigmoid"), torch.sigmoid),
    ],
    ids=["dense", "one tower", "tanh", "sigmoid"],
)
def test_equals_the_same_network_of_torchs_layers(settings, activation):
    ours = network(settings)
    with torch.no_grad():
        expected = Plain(ours, activation)(IMAGES)
        found = ours(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def stage1(x: torch.Tensor, tower: Tower, *order: str) -> torch.Tensor:
    """conv1 and what follows it in the order given, of torch's own functions."""
    x = F.conv2d(F.pad(x, (0, 3, 0, 3)), tower.conv1.weight, tower.conv1.bias, stride=4)
    functions = {
        "relu": F.relu,
        "lrn": lambda x: F.local_response_norm(x, 5, 5e-4, 0.75, 2.0),
        "pool": lambda x: F.max_pool2d(x, 3, 2),
    }
    for name in order:
        x = functions[name](x)
    return x


@pytest.mark.parametrize("order", ["relu-lrn-pool", "lrn-pool-relu", "lrn-relu-pool", "relu-pool-lrn"])
def test_the_order_after_conv1(order):
    tower = build_tower(dataclasses.replace(SMALL, conv1_order=order, init_std=0.05), 10, "a", seed=0)
    reached = {}
    tower.conv2.register_forward_pre_hook(lambda module, given: reached.update(x=given[0]))
    with torch.no_grad():
        tower.stage(0, IMAGES)
        expected = stage1(IMAGES, tower, *order.split("-"))
    torch.testing.assert_close(reached["x"], expected, rtol=1e-4, atol=1e-5)


def test_pooling_without_overlap_has_windows_of_two_and_the_same_maps():
    tower = build_tower(dataclasses.replace(SMALL, overlap=False, lrn=False), 10, "a", seed=0)
    reached = {}
    tower.conv2.register_forward_pre_hook(lambda module, given: reached.update(x=given[0]))
    with torch.no_grad():
        assert tower.stage(0, IMAGES).shape == (2, 8, 13, 13)
        conv1 = F.relu(tower.conv1(F.pad(IMAGES, (0, 3, 0, 3))))
    torch.testing.assert_close(reached["x"], F.max_pool2d(conv1, 2))


SWITCHES = [
    {"lrn": False},
    {"activation": "tanh"},
    {"overlap": False},
    {"dropout": 0.0},
    {"conv1_order": "lrn-pool-relu"},
    {"conv2_spatial_norm": True},
]


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_a_switch_leaves_the_initial_weights_as_they_are(switch):
    plain, switched = (build_tower(dataclasses.replace(SMALL, **s), 10, "b", 4) for s in ({}, switch))
    for name, p in plain.named_parameters():
        assert torch.equal(p, switched.get_parameter(name)), name


@pytest.mark.parametrize(
    "switch",
    [{"crops": False}, {"flips": False}, {"color_std": 0.0}, {"rotation": 9.0}, {"crop_area": 0.5}],
)
def test_a_switch_of_augmentation_leaves_the_other_draws_as_they_are(switch):
    fields = {
        "crops": ("top_B", "left_B"),
        "flips": ("flip_B",),
        "color_std": ("shift_B3",),
        "crop_area": ("top_B", "left_B", "sides_B2"),
    }
    changed = fields.get(next(iter(switch)), ("angle_B",))
    axes = np.diag([122.0, 37.0, 20.0])
    plain, switched = (
        draw(dataclasses.replace(PAPER.augment, **s), axes, seed=0, epoch=3, images=50) for s in ({}, switch)
    )
    for field in dataclasses.fields(Views):
        same = np.array_equal(getattr(plain, field.name), getattr(switched, field.name))
        assert same == (field.name not in changed), field.name


def test_rotation_is_pillows_about_the_middle():
    smooth = np.linspace(0, 255, 256)[:, None, None] * np.ones((1, 256, 3))
    smooth[..., 1] = np.linspace(255, 0, 256)[None, :]
    smooth[..., 2] = 127 + 100 * np.sin(np.arange(256) / 20)[None, :]
    image = smooth.round().astype(np.uint8)
    view = dataclasses.replace(fixed(1, 16, 16, False), angle_B=np.array([20.0], np.float32))
    mean = np.zeros((256, 256, 3), np.float32)
    ours = crop(image[None], mean, view, AugmentConfig(), training=True)[0].permute(1, 2, 0).numpy()
    rotated = np.asarray(Image.fromarray(image).rotate(20, Image.Resampling.BILINEAR), np.float64)
    # Beyond the corners Pillow paints black and we repeat the edge: compare inside the circle that both fill.
    y, x = np.mgrid[:224, :224] - 111.5
    inside = np.hypot(x, y) < 110
    # Pillow rounds to whole numbers.
    assert np.abs(ours - rotated[16:240, 16:240])[inside].max() < 1.0


def test_a_dense_network_of_one_tower_is_refused():
    with pytest.raises(UserError, match="--dense joins two towers"):
        NetworkConfig(dense=True, towers=1)
