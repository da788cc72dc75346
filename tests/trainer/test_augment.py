"""Crops, flips, mean image and colour against NumPy in float64."""

import numpy as np
import pytest
import torch
from scipy import stats

from trainer import on_device
from trainer.augment import Views, center_crop, color_axes, cut, draw, fixed, ten_crops
from trainer.config import Augment
from trainer.recipes import CUDA_CONVNET, PAPER

SIDE = 256
AXES = np.diag([122.0, 37.0, 20.0])


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mean():
    return np.random.default_rng(1).uniform(90, 130, (SIDE, SIDE, 3)).astype(np.float32)


@pytest.mark.parametrize("settings", [PAPER.augment, CUDA_CONVNET.augment, Augment(divisor=60.0)])
def test_equals_the_arithmetic_written_out(pictures, mean, settings):
    views = draw(settings, AXES, seed=5, epoch=0, images=8)
    ours = cut(pictures, mean, views, settings, training=True).permute(0, 2, 3, 1).numpy()
    for i in range(8):
        top, left = views.top_B[i], views.left_B[i]
        window = np.s_[top : top + 224, left : left + 224]
        expected = pictures[i].astype(np.float64)[window] + views.shift_B3[i]
        mirror = np.s_[:, ::-1] if views.flip_B[i] else np.s_[:, :]
        if settings.mean_window == "center":
            expected = expected[mirror] - mean[16:240, 16:240]
        else:
            expected = (expected - mean[window])[mirror]
        expected /= settings.divisor * settings.train_divisor
        # 255 in float32 has steps of 1.5e-5, and three of them are added.
        np.testing.assert_allclose(ours[i], expected, rtol=0, atol=5e-5)


TURNED = Augment(rotation=20.0)
TURNED_CENTERED = Augment(rotation=20.0, mean_window="center")


@pytest.mark.parametrize(
    "settings", [PAPER.augment, CUDA_CONVNET.augment, Augment(divisor=60.0), TURNED, TURNED_CENTERED]
)
def test_a_devices_arithmetic_equals_the_loop(pictures, mean, settings):
    views = draw(settings, AXES, seed=6, epoch=0, images=8)
    for training in (True, False):
        expected = cut(pictures, mean, views, settings, training)
        found = on_device.cut(torch.from_numpy(pictures), torch.from_numpy(mean), views, settings, training)
        assert found.is_contiguous(memory_format=torch.channels_last)
        # Sums of up to six numbers below 512, whose float32 steps are 3e-5, and one product.
        torch.testing.assert_close(found, expected, rtol=2e-7, atol=6 * 3e-5 / settings.divisor)


def test_evaluation_leaves_out_the_division_of_training(pictures, mean):
    view = fixed(8, 16, 16, False)
    ours = cut(pictures, mean, view, CUDA_CONVNET.augment, training=False).permute(0, 2, 3, 1).numpy()
    expected = pictures[:, 16:240, 16:240].astype(np.float64) - mean[16:240, 16:240]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-5)


def test_all_33_by_33_offsets_are_equally_likely():
    n = 33 * 33 * 60
    views = draw(Augment(), AXES, seed=0, epoch=0, images=n)
    counts = np.zeros((33, 33), int)
    np.add.at(counts, (views.top_B, views.left_B), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert stats.binomtest(int(views.flip_B.sum()), n).pvalue > 1e-3


def test_colour_shift_has_a_tenth_of_the_pixels_own_covariance():
    rng = np.random.default_rng(3)
    pixels = rng.normal(size=(5000, 3)) @ rng.normal(scale=40, size=(3, 3))
    covariance = np.cov(pixels.T)
    axes = color_axes(*np.linalg.eigh(covariance))
    shift = draw(Augment(), axes, seed=0, epoch=0, images=200_000).shift_B3
    # 200,000 draws estimate a covariance to 1 / sqrt(100,000) = 0.3 %; four times that.
    np.testing.assert_allclose(
        np.cov(shift.T), 0.01 * covariance, rtol=0, atol=0.01 * 0.013 * covariance.max()
    )


def test_each_switch_turns_one_thing_off():
    full = draw(Augment(), AXES, 0, 0, 500)
    for settings, same, gone in (
        (Augment(crops=False), ("flip_B", "shift_B3"), ("top_B", "left_B")),
        (Augment(flips=False), ("top_B", "left_B", "shift_B3"), ("flip_B",)),
        (Augment(color_std=0.0), ("top_B", "left_B", "flip_B"), ("shift_B3",)),
    ):
        other = draw(settings, AXES, 0, 0, 500)
        for name in same:
            assert np.array_equal(getattr(other, name), getattr(full, name)), name
        for name in gone:
            assert len(np.unique(getattr(other, name), axis=0)) == 1, name


def test_colour_shift_ends_with_its_epochs():
    settings = Augment(color_epochs=78)
    assert draw(settings, AXES, 0, 77, 50).shift_B3.any()
    assert not draw(settings, AXES, 0, 78, 50).shift_B3.any()


def test_a_group_shares_crop_and_flip_but_not_colour():
    views = draw(Augment(crop_group=32), AXES, 0, 0, 400)
    for name in ("top_B", "left_B", "flip_B"):
        values = getattr(views, name)
        for begin in range(0, 400, 32):
            assert len(set(values[begin : begin + 32].tolist())) == 1
        assert len(set(values.tolist())) > 1
    assert len(np.unique(views.shift_B3, axis=0)) == 400


def test_epochs_differ_and_repeat_exactly():
    first, again, next_epoch = (draw(Augment(), AXES, 0, epoch, 64) for epoch in (0, 0, 1))
    assert np.array_equal(first.top_B, again.top_B)
    assert not np.array_equal(first.top_B, next_epoch.top_B)


def test_ten_crops_are_corners_centre_and_their_mirrors():
    corners = {(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)}
    assert {(t, left) for t, left, flip in ten_crops() if not flip} == corners
    assert {(t, left) for t, left, flip in ten_crops() if flip} == corners
    assert len(ten_crops()) == 10
    assert center_crop() == [(16, 16, False)]


def test_views_join_in_order():
    a, b = fixed(2, 1, 2, False), fixed(1, 3, 4, True)
    joined = Views.join([a, b])
    assert joined.top_B.tolist() == [1, 1, 3]
    assert joined.flip_B.tolist() == [False, False, True]
