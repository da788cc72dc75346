"""Crops, flips, mean image and colour against NumPy in float64."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import kernels
from trainer.config import AugmentConfig
from trainer.data.augmentation import (
    Cropper,
    Views,
    center_crop,
    color_axes,
    crop,
    draw,
    fixed,
    require_size,
    ten_crops,
)
from trainer.errors import UserError
from trainer.recipes import CUDA_CONVNET, PAPER

SIDE = 256
AXES = np.diag([122.0, 37.0, 20.0])


@pytest.fixture
def automatic():
    """The choice of kernels is a run's again afterwards."""
    yield
    kernels.use("auto")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mean():
    return np.random.default_rng(1).uniform(90, 130, (SIDE, SIDE, 3)).astype(np.float32)


@pytest.mark.parametrize("settings", [PAPER.augment, CUDA_CONVNET.augment, AugmentConfig(divisor=60.0)])
def test_equals_the_arithmetic_written_out(images, mean, settings):
    views = draw(settings, AXES, seed=5, epoch=0, images=8)
    ours = crop(images, mean, views, settings, training=True).permute(0, 2, 3, 1).numpy()
    for i in range(8):
        top, left = views.top_B[i], views.left_B[i]
        window = np.s_[top : top + 224, left : left + 224]
        expected = images[i].astype(np.float64)[window] + views.shift_B3[i]
        direction = np.s_[:, ::-1] if views.flip_B[i] else np.s_[:, :]
        if settings.mean_window == "center":
            expected = expected[direction] - mean[16:240, 16:240]
        else:
            expected = (expected - mean[window])[direction]
        expected /= settings.divisor * settings.train_divisor
        # 255 in float32 has steps of 1.5e-5, and three of them are added.
        np.testing.assert_allclose(ours[i], expected, rtol=0, atol=5e-5)


ROTATED = AugmentConfig(rotation=20.0)
ROTATED_CENTERED = AugmentConfig(rotation=20.0, mean_window="center")
RESIZED = AugmentConfig(crop_area=0.3)
LOG_RATIOS = np.log(3 / 4), np.log(16 / 9)  # begin and length, from 3:4 to 4:3
RESIZED_ROTATED = AugmentConfig(crop_area=0.3, rotation=20.0, mean_window="center", divisor=60.0)


@pytest.mark.parametrize(
    "settings",
    [
        *(PAPER.augment, CUDA_CONVNET.augment, AugmentConfig(divisor=60.0)),
        *(ROTATED, ROTATED_CENTERED, RESIZED, RESIZED_ROTATED),
    ],
)
def test_plain_torch_crops_as_the_loop_does(images, mean, settings):
    views = draw(settings, AXES, seed=6, epoch=0, images=8)
    for training in (True, False):
        expected = crop(images, mean, views, settings, training)
        kernels.use("reference")
        found = crop(images, mean, views, settings, training)
        kernels.use("auto")
        assert found.is_contiguous(memory_format=torch.channels_last)
        # Sums of up to six numbers below 512, whose float32 steps are 3e-5, and one product.
        torch.testing.assert_close(found, expected, rtol=2e-7, atol=6 * 3e-5 / settings.divisor)


def test_evaluation_leaves_out_the_division_of_training(images, mean):
    view = fixed(8, 16, 16, False)
    ours = crop(images, mean, view, CUDA_CONVNET.augment, training=False).permute(0, 2, 3, 1).numpy()
    expected = images[:, 16:240, 16:240].astype(np.float64) - mean[16:240, 16:240]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-5)


def test_all_33_by_33_offsets_are_equally_likely():
    n = 33 * 33 * 60
    views = draw(AugmentConfig(), AXES, seed=0, epoch=0, images=n)
    counts = np.zeros((33, 33), int)
    np.add.at(counts, (views.top_B, views.left_B), 1)
    from scipy import stats  # slow to import

    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert stats.binomtest(int(views.flip_B.sum()), n).pvalue > 1e-3


def test_colour_shift_has_a_tenth_of_the_pixels_own_covariance():
    rng = np.random.default_rng(3)
    pixels = rng.normal(size=(5000, 3)) @ rng.normal(scale=40, size=(3, 3))
    covariance = np.cov(pixels.T)
    axes = color_axes(*np.linalg.eigh(covariance))
    shift = draw(AugmentConfig(), axes, seed=0, epoch=0, images=200_000).shift_B3
    # 200,000 draws estimate a covariance to 1 / sqrt(100,000) = 0.3 %; four times that.
    np.testing.assert_allclose(
        np.cov(shift.T), 0.01 * covariance, rtol=0, atol=0.01 * 0.013 * covariance.max()
    )


def test_each_switch_turns_one_thing_off():
    full = draw(AugmentConfig(), AXES, 0, 0, 500)
    for settings, same, gone in (
        (AugmentConfig(crops=False), ("flip_B", "shift_B3"), ("top_B", "left_B")),
        (AugmentConfig(flips=False), ("top_B", "left_B", "shift_B3"), ("flip_B",)),
        (AugmentConfig(color_std=0.0), ("top_B", "left_B", "flip_B"), ("shift_B3",)),
    ):
        other = draw(settings, AXES, 0, 0, 500)
        for name in same:
            assert np.array_equal(getattr(other, name), getattr(full, name)), name
        for name in gone:
            assert len(np.unique(getattr(other, name), axis=0)) == 1, name


def test_colour_shift_ends_with_its_epochs():
    settings = AugmentConfig(color_epochs=78)
    assert draw(settings, AXES, 0, 77, 50).shift_B3.any()
    assert not draw(settings, AXES, 0, 78, 50).shift_B3.any()


def test_a_group_shares_crop_and_flip_but_not_colour():
    views = draw(AugmentConfig(crop_group=32), AXES, 0, 0, 400)
    for name in ("top_B", "left_B", "flip_B"):
        values = getattr(views, name)
        for begin in range(0, 400, 32):
            assert len(set(values[begin : begin + 32].tolist())) == 1
        assert len(set(values.tolist())) > 1
    assert len(np.unique(views.shift_B3, axis=0)) == 400


def test_epochs_differ_and_repeat_exactly():
    first, again, next_epoch = (draw(AugmentConfig(), AXES, 0, epoch, 64) for epoch in (0, 0, 1))
    assert np.array_equal(first.top_B, again.top_B)
    assert not np.array_equal(first.top_B, next_epoch.top_B)


def test_ten_crops_are_corners_centre_and_the_same_flipped():
    corners = {(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)}
    assert {(t, left) for t, left, flip in ten_crops(256, 224) if not flip} == corners
    assert {(t, left) for t, left, flip in ten_crops(256, 224) if flip} == corners
    assert len(ten_crops(256, 224)) == 10
    assert center_crop(256, 224) == [(16, 16, False)]


def test_views_join_in_order():
    a, b = fixed(2, 1, 2, False), fixed(1, 3, 4, True)
    joined = Views.join([a, b])
    assert joined.top_B.tolist() == [1, 1, 3]
    assert joined.flip_B.tolist() == [False, False, True]


@pytest.mark.parametrize("side", [8, 48, 223])
def test_images_smaller_than_a_crop_are_one_sentence(side):
    sentence = f"some.zarr has images of {side}x{side} pixels, and the network crops 224x224: make another"
    with pytest.raises(UserError, match=sentence):
        require_size(side, 224, "some.zarr")
    with pytest.raises(ValueError, match=r"S at least 224"):
        Cropper(np.zeros((side, side, 3), np.float32), AugmentConfig(), training=False)


def test_images_of_a_crops_size_have_one_place(images, mean):
    require_size(224, 224, "some.zarr")
    small, mean = np.ascontiguousarray(images[:, :224, :224]), np.ascontiguousarray(mean[:224, :224])
    found = crop(
        small,
        mean,
        draw(AugmentConfig(flips=False, color_std=0.0), AXES, 0, 0, 8, 224),
        AugmentConfig(),
        True,
    )
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), small - mean, atol=5e-5)


def changed(views, **changes):
    return dataclasses.replace(views, **changes)


WRONG_VIEWS = {
    "top below": (
        lambda v: changed(v, top_B=v.top_B - 17),
        "top_B has -1, and a crop of 224 pixels begins at 0 to 32 in an",
    ),
    "top beyond": (lambda v: changed(v, top_B=v.top_B + 17), "top_B has 33, "),
    "left below": (lambda v: changed(v, left_B=v.left_B - 999), "left_B has -983, "),
    "left beyond": (lambda v: changed(v, left_B=v.left_B + 999), "left_B has 1015, "),
    "one of many": (lambda v: changed(v, left_B=np.r_[v.left_B[1:], 33]), "left_B has 33, "),
    "fewer lefts": (lambda v: changed(v, left_B=v.left_B[1:]), r"left_B has the shape \(7,\), not \(8,\)"),
    "one side": (lambda v: changed(v, sides_B2=v.sides_B2[:, 0]), r"sides_B2 has the shape \(8,\), not"),
    "too high": (
        lambda v: changed(v, sides_B2=v.sides_B2 + np.array([17, 0])),
        "top_B has 16, .* 241 .* 0 to 15",
    ),
    "too wide": (
        lambda v: changed(v, sides_B2=v.sides_B2 + np.array([0, 17])),
        "left_B has 16, .* 241 .* 0 to 15",
    ),
    "no pixels": (lambda v: changed(v, sides_B2=0 * v.sides_B2), "top_B has 16, and a crop of 0 pixels"),
    "fewer flips": (lambda v: changed(v, flip_B=v.flip_B[1:]), r"flip_B has the shape \(7,\)"),
    "two colours": (lambda v: changed(v, shift_B3=v.shift_B3[:, 1:]), r"shift_B3 has the shape \(8, 2\)"),
    "fewer angles": (lambda v: changed(v, angle_B=v.angle_B[1:]), r"angle_B has the shape \(7,\)"),
}


@pytest.mark.parametrize("name", WRONG_VIEWS)
def test_a_view_beyond_the_image_is_refused_before_anything_is_read(images, mean, name, automatic):
    change, sentence = WRONG_VIEWS[name]
    views = change(fixed(8, 16, 16, True))
    for mode in ("auto", "reference"):
        kernels.use(mode)
        with pytest.raises(ValueError, match=sentence):
            crop(images, mean, views, AugmentConfig(), training=True)


def test_an_angle_that_is_no_number_is_refused(images, mean):
    views = changed(fixed(8, 16, 16, False), angle_B=np.full(8, np.nan, np.float32))
    with pytest.raises(ValueError, match="not a finite number"):
        crop(images, mean, views, AugmentConfig(), training=True)


OUT = torch.zeros(8, 224, 224, 3)
WRONG_ARRAYS = {
    "smaller images": (lambda a: a | {"images_BSS3": a["images_BSS3"][:, :255, :255]}, "uint8 .8, 255"),
    "fewer images": (lambda a: a | {"images_BSS3": a["images_BSS3"][:7]}, "uint8 .7, 256"),
    "floats": (lambda a: a | {"images_BSS3": a["images_BSS3"].float()}, "images are float32"),
    "grey": (lambda a: a | {"images_BSS3": a["images_BSS3"][..., :1]}, "256, 256, 1"),
    "fewer views": (lambda a: a | {"views": a["views"][:7]}, "not contiguous uint8 .7, 256"),
    "short output": (lambda a: a | {"out_BHW3": OUT[:7].clone()}, "the output is float32 .7, 224"),
    "small output": (lambda a: a | {"out_BHW3": OUT[:, 1:].clone()}, "the output is float32 .8, 223"),
    "output of another kind": (lambda a: a | {"out_BHW3": OUT.double()}, "the output is float64"),
    "output that is not contiguous": (
        lambda a: a | {"out_BHW3": OUT.transpose(1, 2)},
        "the output is float32 .8, 224, 224, 3., not contiguous",
    ),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_arrays_that_do_not_belong_together_are_refused(images, mean, name, automatic):
    change, sentence = WRONG_ARRAYS[name]
    right = {
        "images_BSS3": torch.from_numpy(images),
        "views": fixed(8, 16, 16, False),
        "out_BHW3": OUT.clone(),
    }
    for mode in ("auto", "reference"):
        kernels.use(mode)
        cropper = Cropper(mean, AugmentConfig(), training=True)
        found = cropper.crop(**right)
        assert found.data_ptr() == right["out_BHW3"].data_ptr()
        with pytest.raises(ValueError, match=sentence):
            cropper.crop(**change(right))
    with pytest.raises(ValueError, match=r"uint8 \[8, 256, 256, 3\], not contiguous uint8 \[8, 250"):
        Cropper(mean[:250, :250], AugmentConfig(), training=True).crop(right["images_BSS3"], right["views"])


def test_without_random_crops_every_view_is_the_central_one():
    views = draw(AugmentConfig(crops=False), AXES, 0, 0, 20)
    assert set(views.top_B) == set(views.left_B) == {16}


def test_angles_are_uniform_within_the_rotation_and_zero_without_it():
    angles = draw(ROTATED, AXES, 0, 0, 20_000).angle_B
    from scipy import stats

    assert stats.kstest(angles, stats.uniform(-20, 40).cdf).pvalue > 1e-3
    assert not draw(AugmentConfig(), AXES, 0, 0, 20).angle_B.any()


def test_parts_of_any_size_lie_within_the_image_and_cover_their_share_of_it():
    views = draw(AugmentConfig(crop_area=0.2), AXES, 0, 0, 20_000)
    height, width = views.sides_B2.T
    assert views.sides_B2.min() >= 1
    assert min(views.top_B.min(), views.left_B.min()) == 0
    assert (views.top_B + height).max() == (views.left_B + width).max() == 256
    share = height * width / 256**2
    assert 0.198 < share.min() < 0.203  # sides are whole numbers of pixels
    free = np.maximum(height, width) < 256  # others were cut to the image's side
    ratio = (height / width)[free]
    assert ratio.min() == pytest.approx(3 / 4, rel=0.01)
    assert ratio.max() == pytest.approx(4 / 3, rel=0.01)
    from scipy import stats

    middle = np.abs(share - 0.4) < 0.1  # of which no side can reach the image's
    assert stats.kstest(share[middle], stats.uniform(0.3, 0.2).cdf).pvalue > 1e-3
    assert stats.kstest(np.log((height / width)[middle]), stats.uniform(*LOG_RATIOS).cdf).pvalue > 1e-3


def test_a_part_is_resized_as_pillow_does(images, mean):
    # Pillow's bilinear filter interpolates four pixels where an image grows; it takes more where it shrinks.
    sides = np.array([[100, 150], [224, 180], [223, 224], [64, 64], [30, 200], [1, 1], [200, 7], [211, 199]])
    views = changed(fixed(8, 9, 20, False), sides_B2=sides, flip_B=np.arange(8) % 2 == 1)
    ours = crop(images, 0 * mean, views, AugmentConfig(), training=True).permute(0, 2, 3, 1).numpy()
    for image, found, (height, width), flip in zip(images, ours, sides, views.flip_B, strict=True):
        box = (20, 9, 20 + width, 9 + height)
        expected = Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR, box=box)
        expected = np.asarray(expected, np.float64)[:, :: -1 if flip else 1]
        assert np.abs(found - expected).max() <= 1.0  # Pillow rounds twice to whole numbers


def test_without_random_crops_no_part_is_resized():
    views = draw(AugmentConfig(crops=False, crop_area=0.2), AXES, 0, 0, 20)
    assert set(views.sides_B2.ravel()) == {224}


def test_groups_of_samples_share_a_part():
    views = draw(AugmentConfig(crop_area=0.2, crop_group=4), AXES, 0, 0, 10)
    for name in ("top_B", "left_B", "sides_B2"):
        parts = getattr(views, name)
        assert (parts[:4] == parts[0]).all()
        assert (parts[4:8] == parts[4]).all()
    assert not np.array_equal(views.sides_B2[0], views.sides_B2[4])


def test_an_axis_is_as_long_as_its_standard_deviation():
    vectors = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    # The last eigenvalue of grey pixels is zero but for rounding, which may be negative.
    found = color_axes(np.array([0.25, 4.0, -1e-12]), vectors)
    np.testing.assert_allclose(found, [[0.3, -1.6, 0], [0.4, 1.2, 0], [0, 0, 0]], rtol=0, atol=1e-12)


def test_the_colour_shift_is_drawn_along_the_axes():
    axis = np.zeros((3, 3))
    axis[:, 0] = [10.0, 20.0, -30.0]
    shift = draw(AugmentConfig(color_std=0.5), axis, 0, 0, 5000).shift_B3
    np.testing.assert_allclose(shift, np.outer(shift[:, 0], [1, 2, -3]), rtol=1e-5)
    # The sample deviation of 5000 normal draws is right to 1 %; five times that.
    assert shift[:, 0].std() == pytest.approx(0.5 * 10, rel=0.05)


def test_another_size_of_images_moves_centre_and_corners():
    # 301 - 224 = 77 is the farthest offset, and 38 the last whole one before the middle.
    assert center_crop(301, 224) == [(38, 38, False)]
    corners = [(0, 0, False), (0, 77, False), (77, 0, False), (77, 77, False), (38, 38, False)]
    assert ten_crops(301, 224)[:5] == corners
    views = draw(AugmentConfig(), AXES, 0, 0, 5000, 301)
    assert (views.top_B.min(), views.top_B.max()) == (views.left_B.min(), views.left_B.max()) == (0, 77)
    views = draw(AugmentConfig(crops=False), AXES, 0, 0, 5, 301)
    assert views.top_B.tolist() == views.left_B.tolist() == [38] * 5
    assert views.top_B.dtype == views.left_B.dtype == np.int64


def test_views_of_epochs_without_colour_have_the_shape_of_the_others():
    for colored in (True, False):
        views = draw(AugmentConfig(color_epochs=int(colored)), AXES, 0, 0, 20)
        assert (views.shift_B3.shape, views.shift_B3.dtype) == ((20, 3), np.float32)


def test_a_fixed_view_changes_no_colour_and_turns_nothing():
    views = fixed(2, 3, 4, True)
    assert (views.top_B.tolist(), views.left_B.tolist(), views.flip_B.tolist()) == (
        [3, 3],
        [4, 4],
        [True, True],
    )
    assert not views.shift_B3.any()
    assert not views.angle_B.any()
    assert views.sides_B2.tolist() == [[224, 224], [224, 224]]


@pytest.mark.parametrize("shape", [(224, 256, 3), (256, 224, 3), (256, 256, 1), (256, 256)])
def test_a_mean_image_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="a mean image has the shape"):
        Cropper(np.zeros(shape, np.float32), AugmentConfig(), training=False)
