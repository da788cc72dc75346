"""Receptive fields beside the pixels that have a gradient."""

import pytest
import torch
from torch import nn

from tests.trainer.figures.networks import small_alexnet
from trainer.figures.receptive_field import receptive_field


def all_pass(network):
    """The same windows, with sums in place of maxima and positive weights: each pixel has its gradient."""
    for name, layer in network.named_children():
        if isinstance(layer, nn.MaxPool2d):
            pool = nn.AvgPool2d(layer.kernel_size, layer.stride, ceil_mode=layer.ceil_mode)
            setattr(network, name, pool)
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.01)
    return network


@pytest.mark.parametrize("layer", ["relu1", "norm1", "pool1", "relu2", "pool2", "relu4", "relu5", "pool5"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"conv1_pad": 0},
        {"overlap": False},
        {"conv1_order": "lrn-pool-relu", "conv2_spatial_norm": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_the_field_is_where_the_gradient_is(layer, settings, place):
    network = small_alexnet(**settings)
    field = receptive_field(network, layer)
    network = all_pass(network)
    side = network.augment["crop_size"]
    x = torch.ones(1, 3, side, side, requires_grad=True)
    y = x
    for name, child in network.named_children():
        y = child(y)
        if name == layer:
            break
    at = {"first": 0, "middle": y.shape[2] // 2, "last": y.shape[2] - 1}[place]
    y[0, :, at, at - 1 if place == "middle" else at].sum().backward()
    rows, columns = (x.grad[0].abs().sum(0) > 0).nonzero().T
    top, left = field.corner(at, at - 1 if place == "middle" else at)
    assert (int(rows.min()), int(columns.min())) == (max(top, 0), max(left, 0))
    # Pooling without overlap leaves out the last of 55 rows and columns.
    pooled = "overlap" in settings and layer not in ("relu1", "norm1")
    last = side - 1 if pooled and place == "last" else side
    ends = min(top + field.side, last), min(left + field.side, last)
    assert (int(rows.max()) + 1, int(columns.max()) + 1) == ends


def test_the_sides_are_those_of_a_hand_count():
    network = small_alexnet()
    sides = [11, 11 + 2 * 4, 19 + 4 * 8, 51 + 2 * 8, 67 + 2 * 16, 99 + 2 * 16, 131 + 2 * 16, 163 + 2 * 16]
    names = ("relu1", "pool1", "relu2", "pool2", "relu3", "relu4", "relu5", "pool5")
    assert [receptive_field(network, name).side for name in names] == sides


@pytest.mark.parametrize("layer", ["relu6", "relu7", "fc8"])
def test_fully_connected_layers_see_all(layer):
    assert receptive_field(small_alexnet(), layer) is None
