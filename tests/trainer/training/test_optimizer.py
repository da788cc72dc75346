"""The update against the paper's formula in NumPy, float64; the rates against their descriptions."""

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.config import NetworkConfig, OptimizerConfig, with_changes
from trainer.model.initial_weights import build_tower
from trainer.recipes import AUTO, CUDA_CONVNET, PAPER, settle
from trainer.training.optimizer import flatten, largest_magnitude, named_tensors, sgd_step_
from trainer.training.schedule import Schedule

SMALL = NetworkConfig(filters=(2, 2, 2, 2, 2), hidden=4)


@pytest.mark.parametrize("bias_decay", [True, False])
def test_two_hundred_updates_equal_the_papers_formula(bias_decay):
    optim = OptimizerConfig(bias_decay=bias_decay, bias_lr=2.0)
    tower = build_tower(SMALL, 5, "a", seed=0)
    stages = flatten(tower)
    w = {name: p.detach().double().numpy().copy() for name, p in tower.named_parameters()}
    v = {name: np.zeros_like(x) for name, x in w.items()}
    rng = np.random.default_rng(0)
    for step in range(200):
        lr = 0.01 if step < 80 else 0.001 if step < 150 else 0.0001
        for name, p in tower.named_parameters():
            g = rng.normal(scale=0.1, size=tuple(p.shape)).astype(np.float32)
            p.grad += torch.from_numpy(g)
            bias = name.endswith("bias")
            rate, decay = (2 * lr, 0.0005 * bias_decay) if bias else (lr, 0.0005)
            v[name] = 0.9 * v[name] - decay * rate * w[name] - rate * g
            w[name] = w[name] + v[name]
        for stage in stages:
            sgd_step_(stage, optim, lr)
    for name, p in tower.named_parameters():
        # 200 roundings of numbers below 1: 200 * 6e-8 at the very worst.
        np.testing.assert_allclose(p.detach().numpy(), w[name], rtol=0, atol=2e-6, err_msg=name)
        assert not p.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("travel", [None, torch.float32, torch.bfloat16])
def test_any_dtypes_of_network_and_gradients_give_the_same_update(dtype, travel):
    tower = build_tower(SMALL, 5, "a", seed=0)
    w = {name: p.detach().double().numpy().copy() for name, p in tower.named_parameters()}
    v = {name: np.zeros_like(x) for name, x in w.items()}
    stages = flatten(tower, dtype, travel)
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        for name, p in tower.named_parameters():
            g = torch.randn(p.shape, generator=draw).bfloat16()  # numbers that both dtypes hold
            p.grad += g
            v[name] = 0.9 * v[name] - 0.0005 * 0.1 * w[name] - 0.1 * g.double().numpy()
            w[name] = w[name] + v[name]
        for stage in stages:
            assert stage.cast_grads_for_reduce().dtype == (travel or dtype)
            sgd_step_(stage, OptimizerConfig(), 0.1)
    for stage in stages:
        assert not stage.grads.any()
        for name, p in stage.parameters.items():
            np.testing.assert_allclose(stage.value(name).numpy(), w[name], rtol=0, atol=2e-6)
            assert torch.equal(p, stage.value(name).to(dtype)), (
                "the network's weights are not the rounded ones"
            )


def test_the_rate_is_inside_the_velocity():
    """After a fall of the rate the old velocity goes on at its old size; torch.optim.SGD would shrink it."""
    tower = build_tower(SMALL, 5, "a", seed=0)
    stages = flatten(tower)
    optim = OptimizerConfig(weight_decay=0.0)
    tower.conv1.weight.grad.fill_(1.0)
    sgd_step_(stages[0], optim, 0.1)
    before = tower.conv1.weight.detach().clone()
    sgd_step_(stages[0], optim, 0.001)
    torch.testing.assert_close(before - tower.conv1.weight, torch.full_like(before, 0.09))


def test_a_frozen_layer_keeps_parameters_and_momentum():
    tower = build_tower(SMALL, 5, "a", seed=0)
    stages = flatten(tower)
    before = tower.conv1.weight.detach().clone()
    for layer in tower.stages[0]:
        getattr(tower, layer).weight.grad.fill_(1.0)
    sgd_step_(stages[0], OptimizerConfig(), 0.1, frozen=("conv1",))
    assert torch.equal(tower.conv1.weight, before)
    assert not stages[0].momentum("conv1.weight").any()
    assert stages[0].momentum("conv2.weight").any()
    assert not stages[0].grads.any()


def test_plateau_divides_by_ten_three_times_then_stops():
    schedule = Schedule(dataclasses.replace(PAPER.optim, patience=2), steps_per_epoch=10)
    rates, errors = [], [0.9, 0.8, 0.8, 0.85, 0.7, 0.7, 0.7, 0.71, 0.72, 0.7, 0.7]
    ended = []
    for error in errors:
        rates.append(schedule.rate(0))
        ended.append(schedule.after_epoch(error))
    #                      better        2 without -> falls     better  2 without   2 without    2: stop
    expected = [0.01] * 4 + [0.001] * 3 + [0.0001] * 2 + [0.00001] * 2
    assert rates == pytest.approx(expected)
    assert ended == [False] * 10 + [True]


def test_plateau_goes_on_from_a_checkpoint():
    first = Schedule(PAPER.optim, 10)
    for error in (0.5, 0.6, 0.6, 0.6):
        first.after_epoch(error)
    second = Schedule(PAPER.optim, 10)
    second.restore(first.state())
    assert second == first


def test_the_programs_rate_falls_after_epochs_23_51_and_78():
    schedule = Schedule(CUDA_CONVNET.optim, steps_per_epoch=100)
    for epoch, rate in ((0, 0.01), (22.99, 0.01), (23, 1e-3), (51, 1e-4), (77.99, 1e-4), (78, 1e-5)):
        assert schedule.rate(round(epoch * 100)) == pytest.approx(rate), epoch


def test_warm_up_rises_in_a_straight_line_and_never_starts_at_zero():
    schedule = Schedule(OptimizerConfig(lr=0.4, epochs=10, warmup_epochs=2.0), steps_per_epoch=10)
    assert [schedule.rate(s) for s in range(20)] == pytest.approx([0.02 * (s + 1) for s in range(20)])
    assert schedule.rate(99) < 0.001


def test_epochs_end_with_their_last_image():
    # 25 images, batches of 10: epoch 1 ends in step 3 (30 >= 25), epoch 2 in step 5, epoch 3 in step 8.
    schedule = Schedule(OptimizerConfig(lr=0.1, epochs=3), steps_per_epoch=2.5)
    assert [s for s in range(1, 9) if schedule.ends_epoch(s)] == [3, 5, 8]
    assert schedule.last_step() == 8


@pytest.mark.parametrize(("images", "batch"), [(1_281_167, 128), (7, 3), (1000, 1000), (5, 8)])
def test_a_run_has_as_many_epoch_ends_as_epochs_or_one_a_step(images, batch):
    schedule = Schedule(OptimizerConfig(lr=0.1, epochs=3), images / batch)
    ends = sum(schedule.ends_epoch(s) for s in range(1, schedule.last_step() + 1))
    assert ends == min(3, schedule.last_step())


def test_auto_settles_on_the_papers_numbers_at_imagenets_size():
    config, reasons = settle(AUTO, 1_281_167)
    assert (config.optim.batch_size, config.optim.epochs) == (128, 90)
    assert config.optim.lr == pytest.approx(0.01)
    assert len(reasons) == 4
    assert settle(PAPER, 1500) == (PAPER, [])


def test_auto_names_the_usual_rate_of_fine_tuning():
    initial = with_changes(AUTO, init_from=Path("runs/mine"))
    config, reasons = settle(initial, 1_281_167)
    assert config.optim == settle(AUTO, 1_281_167)[0].optim
    assert [reason for reason in reasons if reason.endswith("a tenth is usual: --lr 0.001 --fc8-lr 10")]
    assert settle(with_changes(config, lr=0.02), 1_281_167)[1] == []


def test_flat_arrays_have_the_dtypes_and_bytes_of_the_table():
    tower = build_tower(SMALL, 5, "a", seed=0)
    assert all(stage.reduced_grads is stage.grads for stage in flatten(tower))
    (stage, *_) = flatten(tower, torch.float64)  # a proof's
    assert stage.master_weights.dtype == stage.grads.dtype == stage.momenta.dtype == torch.float64
    assert stage.compute_weights is stage.master_weights
    (stage, *_) = flatten(tower, torch.bfloat16, torch.float32)
    assert stage.master_weights.dtype == stage.momenta.dtype == stage.reduced_grads.dtype == torch.float32
    assert stage.compute_weights.dtype == stage.grads.dtype == torch.bfloat16


def test_a_network_in_bfloat16_begins_with_the_rounded_weights():
    tower = build_tower(SMALL, 5, "a", seed=0)
    before = {name: p.detach().clone() for name, p in tower.named_parameters()}
    flatten(tower, torch.bfloat16)
    for name, p in tower.named_parameters():
        assert torch.equal(p, before[name].bfloat16()), name


def test_flat_arrays_are_on_the_towers_device():
    for stage in flatten(build_tower(SMALL, 5, "a", seed=0).to("meta"), torch.bfloat16, torch.float32):
        arrays = (
            stage.master_weights,
            stage.compute_weights,
            stage.grads,
            stage.reduced_grads,
            stage.momenta,
        )
        assert {array.device.type for array in arrays} == {"meta"}


@pytest.mark.parametrize("travel", [None, torch.float32])
def test_each_gradient_is_found_by_its_name_as_the_update_will_use_it(travel):
    tower = build_tower(SMALL, 5, "a", seed=0)
    stages = flatten(tower, torch.bfloat16, travel)
    for number, (_, p) in enumerate(tower.named_parameters()):
        p.grad.fill_(number)
    for stage in stages:
        stage.cast_grads_for_reduce()
    for number, (name, p) in enumerate(tower.named_parameters()):
        (found,) = (stage.gradient(name) for stage in stages if name in stage.parameters)
        assert found.dtype == (travel or torch.bfloat16)
        assert torch.equal(found, torch.full(p.shape, number, dtype=found.dtype)), name


def test_named_tensors_are_float32_views_of_weights_and_momenta():
    tower = build_tower(SMALL, 5, "a", seed=0)
    names = [name for name, _ in tower.named_parameters()]
    stages = flatten(tower, torch.bfloat16)
    tensors = named_tensors(stages)
    assert sorted(tensors) == sorted(names + [f"momentum.{name}" for name in names])
    for name, p in tower.named_parameters():
        assert tensors[name].shape == tensors[f"momentum.{name}"].shape == p.shape
        tensors[name].fill_(1.001)  # no number of bfloat16: the next ones are 1 and 1 + 1/128
        tensors[f"momentum.{name}"].fill_(7)
    for stage in stages:
        assert (stage.master_weights == np.float32(1.001)).all()
        assert (stage.momenta == 7).all()
        stage.refresh_compute_weights()
    assert all((p == 1).all() for p in tower.parameters())


@pytest.mark.parametrize(
    ("value", "expected"), [(3e6, 3e6), (-4e6, 4e6), (math.nan, math.inf), (-math.inf, math.inf)]
)
def test_the_largest_magnitude_is_found_among_weights_and_momenta_of_either_sign(value, expected):
    flat = [flatten(build_tower(SMALL, 5, name, seed=0)) for name in "ab"]
    for array in (flat[0][0].momenta, flat[1][-1].master_weights):
        assert largest_magnitude(flat) < 10
        array[1] = value
        assert largest_magnitude(flat) == expected
        array[1] = 0


def schedule_of(steps_per_epoch: float, **settings) -> Schedule:
    return Schedule(OptimizerConfig(**settings), steps_per_epoch)


def test_the_cosine_falls_from_the_whole_rate_over_its_half_to_zero():
    plain = schedule_of(10, lr=0.4, epochs=8)
    # cos 0, 60, 90 and 180 degrees are 1, 1/2, 0 and -1; the rate is 0.4 (1 + cos) / 2.
    expected = [0.4, 0.3, 0.2, 0, 0]
    assert [plain.rate(s) for s in (0, 80 / 3, 40, 80, 95)] == pytest.approx(expected, abs=1e-12)
    warm = schedule_of(10, lr=0.4, epochs=8, warmup_epochs=2.0)  # the fall takes the six epochs that are left
    assert [warm.rate(s) for s in (19, 20, 40, 50, 80)] == pytest.approx([0.4, 0.4, 0.3, 0.2, 0], abs=1e-12)
    only_warm = schedule_of(10, lr=0.4, epochs=2, warmup_epochs=2.0)
    assert only_warm.rate(19) == pytest.approx(0.4)
    # One and a half steps of warm-up and half a step of cosine: 4/15, 0.4, and zero from the second step on.
    short = schedule_of(1, lr=0.4, epochs=2, warmup_epochs=1.5)
    assert [short.rate(s) for s in (0, 1, 1.75, 2)] == pytest.approx([0.8 / 3, 0.4, 0.2, 0], abs=1e-12)


def test_only_the_plateau_rule_lets_the_rate_fall_or_ends_a_run():
    for settings in ({"schedule": "cosine"}, {"schedule": "steps", "lr_steps": (50,)}):
        schedule = schedule_of(10, lr=0.1, epochs=90, patience=1, **settings)
        before = schedule.rate(7)
        ended = [schedule.after_epoch(0.5) for _ in range(9)]
        assert ended == [False] * 9
        assert (schedule.falls, schedule.epochs_without, schedule.rate(7)) == (0, 8, before)


def test_a_schedule_that_saw_no_error_is_restored_from_json():
    first, second = schedule_of(10, lr=0.1, epochs=3), schedule_of(10, lr=0.1, epochs=3)
    assert first.state() == {"best_error": None, "epochs_without": 0, "falls": 0}
    second.after_epoch(0.5)
    second.after_epoch(0.6)
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert second == first
    first.after_epoch(1.0)  # any error is better than none
    assert first.state() == {"best_error": 1.0, "epochs_without": 0, "falls": 0}


def test_epochs_are_done_with_their_last_image_and_never_more_than_the_run_has():
    # 25 images, batches of 10, as above; the last batch reaches into a fourth epoch.
    schedule = schedule_of(2.5, lr=0.1, epochs=3)
    assert [schedule.epochs_done(s) for s in range(9)] == [0, 0, 0, 1, 1, 2, 2, 2, 3]
    short = schedule_of(0.1, lr=0.1, epochs=3)  # 1 image, batches of 10
    assert (short.last_step(), short.epochs_done(1), short.ends_epoch(1)) == (1, 3, True)


@pytest.mark.parametrize("images", [3, 7, 49, 1_281_167])
@pytest.mark.parametrize("batch", [1, 3, 49, 128, 1000])
def test_epoch_ends_are_those_of_exact_fractions(images, batch):
    """In floating point, 49 steps of 1/49 epoch are 0.9999999999999999 epochs."""
    schedule = schedule_of(images / batch, lr=0.1, epochs=90)
    last = math.ceil(Fraction(90 * images, batch))
    assert schedule.last_step() == last
    ends = [math.ceil(Fraction(epoch * images, batch)) for epoch in range(1, 91)]
    for step in {s for end in ends for s in (end - 1, end, end + 1) if 0 < s <= last}:
        done = step * batch // images
        assert schedule.epochs_done(step) == min(90, done), step
        assert schedule.ends_epoch(step) == (done > (step - 1) * batch // images), step


def after_one_update(optim):
    """A tower whose weights and gradients were 1, after one update with a learning rate of 0.1."""
    tower = build_tower(SMALL, 5, "a", seed=0)
    stages = flatten(tower)
    for p in tower.parameters():
        p.data.fill_(1.0)
        p.grad.fill_(1.0)
    for stage in stages:
        sgd_step_(stage, optim, 0.1)
    return tower


def test_fc8_has_its_own_multiple_of_the_learning_rate():
    """By hand, w = 1, g = 1, decay 0.5, lr 0.1: v = -(0.5 * 0.1 + 0.1) = -0.15; ten times that in fc8."""
    tower = after_one_update(OptimizerConfig(fc8_lr=10.0, weight_decay=0.5))
    for name, p in tower.named_parameters():
        expected = -0.5 if name.startswith("fc8") else 0.85
        torch.testing.assert_close(p.detach(), torch.full_like(p, expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("multiple", "conv1"), [(4.0, 0.7), (0.0, 0.9), (None, 0.85)])
def test_conv1_has_its_own_multiple_of_the_weight_decay(multiple, conv1):
    """By hand, w = g = 1, decay 0.5, lr 0.1: v = -(0.5 * 0.1 + 0.1) = -0.15; in conv1 -(4 * 0.05 + 0.1)."""
    tower = after_one_update(OptimizerConfig(conv1_decay=multiple, weight_decay=0.5))
    for name, p in tower.named_parameters():
        expected = conv1 if name.startswith("conv1") else 0.85
        torch.testing.assert_close(p.detach(), torch.full_like(p, expected), rtol=1e-6, atol=0)


def test_auto_makes_conv1_learn_and_resizes_crops_where_there_are_few_images():
    few, reasons = settle(AUTO, 99_999)
    assert (few.optim.conv1_decay, few.augment.crop_area) == (20, 0.5)
    assert any("weight decay of conv1 20 times" in reason for reason in reasons)
    assert any("crops of 50 % of the image or more" in reason for reason in reasons)
    many, reasons = settle(AUTO, 100_000)
    assert (many.optim.conv1_decay, many.augment.crop_area) == (1, 1)
    assert not any("conv1" in reason or "crops" in reason for reason in reasons)
    asked, _ = settle(with_changes(AUTO, conv1_decay=3.0, crop_area=0.9), 500)
    assert (asked.optim.conv1_decay, asked.augment.crop_area) == (3, 0.9)
    # A trained network's filters have formed.
    assert settle(with_changes(AUTO, init_from=Path("runs/mine")), 500)[0].optim.conv1_decay == 1


@pytest.mark.parametrize(
    ("batch", "lr", "warmup", "words"),
    [
        (8, 0.005, 0.25, "in proportion to the square root of a smaller one"),  # 0.01 / sqrt(4)
        (32, 0.01, 0.25, "for batches of 32 to 128"),
        (128, 0.01, 0.25, "for batches of 32 to 128"),
        (1024, 0.08, 1.0, "in proportion to the batch size"),
    ],
)
def test_autos_learning_rate_follows_the_batch_size(batch, lr, warmup, words):
    config, reasons = settle(with_changes(AUTO, batch_size=batch), 5000)
    assert (config.optim.lr, config.optim.warmup_epochs) == (pytest.approx(lr), warmup)
    assert any(reason.startswith("learning rate") and reason.endswith(words) for reason in reasons)
