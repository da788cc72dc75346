"""Patches at an image's edge, and images in rows."""

import numpy as np
import pytest

from trainer.figures import tiles

IMAGE = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)


@pytest.mark.parametrize("corner", [(1, 2), (-1, -2), (3, 4), (-1, 4), (0, 0), (-9, 0), (7, 7)])
def test_a_patch_is_grey_beyond_the_image(corner):
    far = 20
    whole = np.full((5 + 2 * far, 6 + 2 * far, 3), tiles.GREY, np.uint8)
    whole[far : far + 5, far : far + 6] = IMAGE
    top, left = (far + c for c in corner)
    np.testing.assert_array_equal(tiles.patch(IMAGE, *corner, 3), whole[top : top + 3, left : left + 3])


def test_images_stand_in_rows_with_white_between_and_after_them():
    page = tiles.arrange([np.full((2, 2, 3), n, np.uint8) for n in range(5)], 3, 1)
    w = 255
    assert page[..., 0].tolist() == [
        [0, 0, w, 1, 1, w, 2, 2],
        [0, 0, w, 1, 1, w, 2, 2],
        [w, w, w, w, w, w, w, w],
        [3, 3, w, 4, 4, w, w, w],
        [3, 3, w, 4, 4, w, w, w],
    ]


def test_few_pixels_are_enlarged_as_squares():
    large = tiles.enlarge(IMAGE[:2, :2], 20)
    np.testing.assert_array_equal(large, np.kron(IMAGE[:2, :2], np.ones((10, 10, 1), np.uint8)))
