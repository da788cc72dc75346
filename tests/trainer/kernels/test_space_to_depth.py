"""conv1 over blocks of pixels, compared with torch's convolution, both ways."""

import pytest
import torch
import torch.nn.functional as F

from trainer.config import NetworkConfig
from trainer.kernels import space_to_depth
from trainer.model.initial_weights import build_tower


def images(count: int, dtype: torch.dtype = torch.float32, side: int = 224) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=draw).to(dtype)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_holds_four_lines_of_four_pixels_and_zeros_follow(dtype, layout):
    x = images(2, dtype, side=16).contiguous(memory_format=layout)
    y = space_to_depth.of_images(x)
    assert y.shape == (2, 48, 5, 5)
    for line in range(4):
        for column in range(4):
            pixels = y[:, (line * 4 + column) * 3 :][:, :3]
            assert torch.equal(pixels[:, :, :4, :4], x[:, :, line::4, column::4].bfloat16())
    assert not y[:, :, 4].any()
    assert not y[:, :, :, 4].any()


def test_the_sums_are_those_of_windows_of_11_pixels_and_so_are_the_gradients():
    x = images(2, torch.bfloat16)
    draw = torch.Generator().manual_seed(2)
    weight = torch.randn(6, 3, 11, 11, generator=draw, dtype=torch.float64)
    leaves = [weight.clone().requires_grad_() for _ in range(2)]
    padded = F.pad(x.double(), (0, 3, 0, 3))
    expected = F.conv2d(padded, leaves[0], stride=4)
    y = F.conv2d(space_to_depth.of_images(x).double(), space_to_depth.of_weights(leaves[1]))
    dy = torch.randn(expected.shape, generator=draw, dtype=torch.float64)
    expected.backward(dy)
    y.backward(dy)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad, rtol=0, atol=1e-10)


def test_conv1_in_bfloat16_is_that_in_float32_but_for_rounding():
    """2^-9 of each weight and pixel, and of the sum: 1e-2 of the norm is far above, a lost window below."""
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        tower = build_tower(NetworkConfig(filters=(6, 8, 12, 12, 8), hidden=32), 10, "a", seed=0).to(dtype)
        y = tower.conv1(images(2))
        y.backward(torch.ones_like(y))
        results[dtype] = y.float(), tower.conv1.weight.grad.float(), tower.conv1.bias.grad.float()
    for low, exact in zip(results[torch.bfloat16], results[torch.float32], strict=True):
        assert (low - exact).norm() < 1e-2 * exact.norm()


@pytest.mark.parametrize("shape", [(1, 3, 16, 18), (1, 3, 15, 16), (1, 4, 16, 16)])
def test_images_that_are_not_made_of_blocks_are_refused(shape):
    with pytest.raises(ValueError, match="H and W multiples of 4"):
        space_to_depth.of_images(torch.ones(shape))
