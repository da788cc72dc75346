"""Measures of conv1's filters, of filters made by hand."""

from itertools import pairwise

import numpy as np
import pytest

from trainer.model.filter_measures import colour_shares, measure, neighbour_correlations

ROW, COLUMN = np.mgrid[-5:6, -5:6] / 5
GABOR = np.exp(-2 * (ROW**2 + COLUMN**2)) * np.sin(4 * COLUMN)  # odd: its mean is 0


def filters(*colours):
    """A Gabor for each (red, green, blue), float32 [F, 3, 11, 11]."""
    return np.stack([np.multiply.outer(rgb, GABOR) for rgb in colours]).astype(np.float32)


def test_grey_has_no_colour_and_opponent_colours_nothing_else():
    weights = filters((1, 1, 1), (1, -1, 0), (-0.5, -0.5, 1), (1, 0, 0), (0, 0, 0))
    # Red alone: grey is a third of it, 3 * (1/3)^2 = 1/3 of the squares.
    np.testing.assert_allclose(colour_shares(weights), [0, 1, 1, 2 / 3, 0], atol=1e-6)


def test_brightness_and_contrast_change_no_measure():
    weights = filters((1, 1, 0.2), (1, -0.3, 0))
    for changed in (7 * weights, weights + 3):
        np.testing.assert_allclose(colour_shares(changed), colour_shares(weights), atol=1e-5)
        np.testing.assert_allclose(
            neighbour_correlations(changed), neighbour_correlations(weights), atol=1e-5
        )


def test_noise_is_two_thirds_colour_and_not_correlated():
    noise = np.random.default_rng(0).standard_normal((2000, 3, 11, 11)).astype(np.float32)
    assert colour_shares(noise).mean() == pytest.approx(2 / 3, abs=0.005)  # two of three dimensions
    assert neighbour_correlations(noise).mean() == pytest.approx(0, abs=0.01)


def test_the_correlation_is_that_of_neighbours_in_rows_and_columns():
    board, stripes = np.indices((4, 4)).sum(0) % 2, np.indices((4, 4))[1] % 2
    patterns = np.stack([np.stack(3 * [2.0 * p - 1]) for p in (board, stripes)])
    # Stripes: -1 across, +1 down, as many pairs of each.
    np.testing.assert_allclose(neighbour_correlations(patterns.astype(np.float32)), [-1, 0], atol=1e-12)


def test_one_colour_with_noise_is_not_correlated():
    noise = np.random.default_rng(0).standard_normal((500, 3, 11, 11)).astype(np.float32)
    red = noise + 5 * np.array([1, 0, 0], np.float32)[:, None, None]
    assert neighbour_correlations(red).mean() == pytest.approx(0, abs=0.02)
    assert colour_shares(red).mean() > 0.9


def test_the_correlation_of_a_first_order_process_is_its_coefficient():
    field = np.random.default_rng(1).standard_normal((1, 3, 400, 400))
    for axis in (2, 3):  # x_i = 0.6 x_(i-1) + noise, down and then across
        for before, line in pairwise(np.moveaxis(field, axis, 0)):
            line += 0.6 * before
    assert neighbour_correlations(field.astype(np.float32))[0] == pytest.approx(0.6, abs=0.02)


def test_a_towers_summary_counts_its_filters_of_colour():
    found = measure(filters((1, 1, 1), (1, -1, 0), (1, 1, 1), (1, 0, 0)))
    assert (found.filters, found.coloured) == (4, 2)
    assert found.colour == pytest.approx((0 + 1 + 0 + 2 / 3) / 4, abs=1e-6)
    assert found.correlation > 0.6
