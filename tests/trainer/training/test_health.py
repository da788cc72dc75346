"""The sentence about a dying network: when, and when not."""

import math

import pytest

from trainer.training.health import WATCHED, HealthMonitor

LN_10 = math.log(10)


def layers(**dead: float) -> dict[str, float]:
    return {f"dead.{layer}": dead.get(layer, 0.1) for layer in WATCHED}


def test_a_dead_layer_is_named_once_it_was_seen_twice():
    doctor = HealthMonitor(classes=10, activation="relu")
    assert doctor.diagnose(layers(fc7=0.99), LN_10, epoch=0.1, lr=0.01) is None
    text = doctor.diagnose(layers(fc7=0.99), LN_10, epoch=0.2, lr=0.01)
    assert "99 % of fc7's units" in text
    assert "ln 10 = 2.303" in text
    assert "--lr 0.001" in text
    assert doctor.diagnose(layers(fc7=0.99), LN_10, epoch=0.3, lr=0.01) is None


@pytest.mark.parametrize(
    ("dead", "loss", "epochs"),
    [
        ({"fc7": 0.5}, 1.0, 50),  # half of a layer may be silent in one batch
        ({}, LN_10, 1),  # every network begins at ln K
        ({}, 1.05 * LN_10, 50),
    ],
)
def test_a_living_network_is_left_alone(dead, loss, epochs):
    doctor = HealthMonitor(classes=10, activation="relu")
    for tenth in range(10 * epochs):
        assert doctor.diagnose(layers(**dead), loss, epoch=tenth / 10, lr=0.01) is None


def test_a_loss_at_ln_k_for_two_epochs_is_reported():
    doctor = HealthMonitor(classes=10, activation="relu")
    text = [doctor.diagnose(layers(), 2.31, epoch=tenth / 10, lr=0.01) for tenth in range(40)]
    assert [bool(s) for s in text].index(True) == 20
    assert "The network is not learning: the loss stays at ln 10 = 2.303 for 2 epochs" in text[20]
    assert sum(map(bool, text)) == 1


def test_units_below_zero_are_not_dead_in_a_tanh_network():
    doctor = HealthMonitor(classes=10, activation="tanh")
    assert [doctor.diagnose(layers(fc7=0.99), 1.0, e, 0.01) for e in range(3)] == [None] * 3
