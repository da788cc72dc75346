"""Sums and strongest images, added up batch by batch, beside all outputs at once."""

import numpy as np
import pytest
import torch

from tests.trainer.figures.networks import small_alexnet
from trainer.errors import UserError
from trainer.figures.responses import KEPT, Responses, measure


@pytest.fixture(scope="module")
def outputs():
    """Of 40 images, after a ReLU: float32 [40, 5, 4, 6]; unit 2 is never active."""
    y = np.random.default_rng(0).standard_normal((40, 5, 4, 6)).astype(np.float32).clip(0)
    y[:, 2] = 0
    return y


def added(outputs, *sizes):
    """The outputs, in batches of these sizes."""
    found = Responses()
    for part in torch.from_numpy(outputs).split(sizes):
        found.add(part)
    return found


def test_the_means_are_those_of_all_images(outputs):
    found = added(outputs, 16, 16, 8)
    wide = outputs.astype(float)
    np.testing.assert_allclose(found.mean(), wide.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.active(), (wide > 0).mean((0, 2, 3)), rtol=1e-12)
    largest = wide.max((2, 3))
    ninth = np.sort(largest, axis=0)[-KEPT]
    expected = np.divide(ninth - largest.mean(0), largest.std(0), out=np.zeros(5), where=largest.std(0) > 0)
    np.testing.assert_allclose(found.selectivity(), expected, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(40,), (16, 16, 8), (1,) * 40])
def test_the_strongest_images_are_those_of_all_with_the_place_of_the_largest_output(outputs, sizes):
    found = added(outputs, *sizes)
    for unit in (0, 1, 3, 4):
        largest = outputs[:, unit].max((1, 2))
        images = np.argsort(-largest)[:KEPT]
        strongest = found.strongest(unit)
        assert [s.image for s in strongest] == images.tolist()
        for s in strongest:
            assert s.output == outputs[s.image, unit, s.row, s.column] == largest[s.image]


def test_fewer_images_than_are_kept(outputs):
    assert len(added(outputs[:4], 3, 1).strongest(0)) == 4


def test_units_without_a_place(outputs):
    found = added(outputs[:, :, 0, 0], 20, 20)
    assert [(s.row, s.column) for s in found.strongest(1)] == [(0, 0)] * KEPT
    np.testing.assert_allclose(found.mean(), outputs[:, :, 0, 0].mean(0), rtol=1e-6)


@torch.inference_mode()
def test_a_layer_is_its_named_module():
    network, x = small_alexnet(), torch.randn(3, 3, 224, 224)
    found = measure(network, ("conv1", "norm1", "fc6", "fc8"), [x[:2], x[2:]])
    conv1 = torch.relu(network.conv1(network.pad1(x)))
    np.testing.assert_allclose(found["conv1"].mean(), conv1.double().mean((0, 2, 3)), rtol=1e-4)
    norm1 = network.norm1(conv1)
    np.testing.assert_allclose(found["norm1"].mean(), norm1.double().mean((0, 2, 3)), rtol=1e-4)
    assert (found["fc6"].mean() >= 0).all()
    np.testing.assert_allclose(found["fc8"].mean(), network(x).double().mean(0), rtol=1e-4, atol=1e-6)
    assert not network.relu1._forward_hooks  # nothing is watched any more


def test_a_layer_that_the_network_lacks_is_refused():
    with pytest.raises(UserError, match="this network has no norm2"):
        measure(small_alexnet(lrn=False), ("norm2",), [])


def test_what_is_kept_does_not_grow_with_the_images(outputs):
    def numbers(found):
        return sum(kept.numel() for kept in (*found._sums.values(), *found._top.values()))

    assert numbers(added(outputs, 20, 20)) == numbers(added(outputs, *(10,) * 4)) == 5 * (4 + 3 * KEPT)
