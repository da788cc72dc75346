import numpy as np
import pytest

from preprocess.shards.sums import Sums
from preprocess.statistics import covariance, eigenbasis, mean_image


def random_images(count: int, size: int) -> np.ndarray:
    """Images with correlated channels, like photographs."""
    random = np.random.default_rng(0)
    grey = random.integers(0, 200, (count, size, size, 1))
    return (grey + random.integers(0, 56, (count, size, size, 3))).astype(np.uint8)


def test_sums_are_exact_in_any_order_and_any_parts() -> None:
    images = random_images(20, 50)
    images[3] = 255
    whole, parts = Sums(50), [Sums(50), Sums(50)]
    for number, image in enumerate(images):
        whole.add(image)
        parts[number % 2].add(image)
    pixels = images.reshape(-1, 3).astype(np.int64)
    np.testing.assert_array_equal(whole.position, images.sum(axis=0, dtype=np.int64))
    np.testing.assert_array_equal(whole.product, pixels.T @ pixels)
    np.testing.assert_array_equal(parts[0].product + parts[1].product, whole.product)
    np.testing.assert_array_equal(parts[0].position + parts[1].position, whole.position)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 256])
def test_an_image_of_any_size_counts_whole(size: int) -> None:
    (image,) = random_images(1, size)
    sums = Sums(size)
    sums.add(image)
    pixels = image.reshape(-1, 3).astype(np.int64)
    np.testing.assert_array_equal(sums.product, pixels.T @ pixels)


@pytest.mark.parametrize(("size", "count"), [(1024, 1), (256, 300)])
def test_many_white_pixels_do_not_overflow(size: int, count: int) -> None:
    sums = Sums(size)
    for _ in range(count):
        sums.add(np.full((size, size, 3), 255, dtype=np.uint8))
    assert (sums.product == 255 * 255 * size * size * count).all()
    assert (sums.position == 255 * count).all()


def test_the_eigenbasis_is_that_of_numpy_on_all_pixels() -> None:
    images = random_images(9, 40)
    sums = Sums(40)
    for image in images:
        sums.add(image)
    position = sums.position.astype(np.uint64)
    matrix = covariance(sums.count, position, sums.product)
    pixels = images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(matrix, np.cov(pixels.T, bias=True), rtol=1e-12)
    np.testing.assert_array_equal(mean_image(sums.count, position), images.mean(axis=0).astype(np.float32))

    values, vectors = eigenbasis(matrix)
    # the same from the pixels themselves: singular values are lengths along the axes
    _, singular, axes = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(values, singular**2 / len(pixels), rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(vectors * axes.T, axis=0)), 1, rtol=1e-10)


def test_the_sign_of_an_eigenvector_makes_its_largest_component_positive() -> None:
    for seed in range(20):
        square = np.random.default_rng(seed).normal(size=(3, 3))
        values, vectors = eigenbasis(square @ square.T)
        assert (vectors[np.abs(vectors).argmax(axis=0), range(3)] > 0).all()
        assert (np.diff(values) <= 0).all()
        np.testing.assert_allclose(square @ square.T @ vectors, vectors * values, atol=1e-12)


def test_a_covariance_of_one_colour_is_exactly_zero() -> None:
    sums = Sums(16)
    for _ in range(3):
        sums.add(np.full((16, 16, 3), 255, dtype=np.uint8))
    assert (covariance(3, sums.position.astype(np.uint64), sums.product) == 0).all()
