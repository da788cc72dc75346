"""The fully connected layer against torch's own, in float64."""

import pytest
import torch
from torch import nn

from trainer.model.layers import Linear


@pytest.mark.parametrize("bias", [True, False])
def test_it_adds_the_gradients_of_torchs_layer_to_what_is_there(bias):
    torch.manual_seed(0)
    theirs = nn.Linear(7, 5, bias=bias).double()
    ours = Linear(7, 5, bias=bias).double()
    ours.load_state_dict(theirs.state_dict())
    before, held = {}, {}
    for name, p in ours.named_parameters():
        p.grad = torch.randn_like(p)
        before[name], held[name] = p.grad.clone(), p.grad
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(4, 5, dtype=torch.float64)
    (expected_dx,) = torch.autograd.grad(theirs(x), x, dy)
    theirs(x.detach()).backward(dy)
    y = ours(x)
    torch.testing.assert_close(y, theirs(x))
    y.backward(dy)
    torch.testing.assert_close(x.grad, expected_dx)
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, before[name] + theirs.get_parameter(name).grad)
        assert p.grad is held[name], f"{name} has another gradient than the one it was given"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 64])
def test_in_bfloat16_sums_are_rounded_once(batch, bias):
    torch.manual_seed(0)
    ours = Linear(2048, 96, bias=bias).bfloat16()
    for p in ours.parameters():
        p.grad = torch.zeros_like(p)
    x = torch.randn(batch, 2048).bfloat16()
    wide = [p.detach().double() for p in ours.parameters()]
    y, exact = ours(x).double(), nn.functional.linear(x.double(), *wide)
    sizes = nn.functional.linear(x.double().abs(), *(w.abs() for w in wide))
    # Half a unit of bfloat16's last place, and float32's own error in the sum.
    assert ((y - exact).abs() <= exact.abs() * 2**-8 + sizes * 1e-6).all()


def test_without_gradients_of_its_own_it_is_torchs_layer():
    ours = Linear(3, 2)
    ours(torch.ones(1, 3)).sum().backward()
    assert torch.equal(ours.weight.grad, torch.ones(2, 3))
