"""The lines that a run prints at its start and end."""

import json
import re

from trainer.config import GROUPS, flag, to_dict
from trainer.recipes import PAPER
from trainer.runs import summary


def test_the_settings_name_every_field():
    text = " ".join(summary.settings(PAPER))
    for group in GROUPS:
        for name in to_dict(PAPER)[group]:
            assert f" {flag(name)[2:]} " in text
    assert "lr 0.01," in text


def write_log(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


LINES = [
    {"step": 0, "ranks": 2, "time": 1000.0},
    {"step": 10, "loss": 2.0, "images_per_second": 50.0, "time": 1060.0},
    {"step": 10, "epoch": 1, "val_top1_error": 0.5, "val_top5_error": 0.25, "time": 1070.0},
    {"step": 10, "ranks": 2, "time": 5000.0},  # went on an hour later
    {"step": 20, "loss": 1.0, "images_per_second": 70.0, "time": 5050.0},
    {"step": 20, "epoch": 2, "val_top1_error": 0.625, "val_top5_error": 0.125, "time": 5060.0},
]


def test_the_ending_counts_the_time_that_was_spent_and_compares_no_small_set_with_imagenet(tmp_path):
    log = write_log(tmp_path / "metrics.jsonl", LINES)
    text = "\n".join(summary.ending(tmp_path / "run", log, 20, classes=10, validation_images=400))
    assert "complete after 20 steps, 2 min 10 s, 60.0 img/s" in text  # 70 s and 60 s
    assert re.search(r"best: epoch 1 +50\.00 +25\.00$", text, re.MULTILINE)
    assert re.search(r"last: epoch 2 +62\.50 +12\.50$", text, re.MULTILINE)
    assert "compare with nothing here" in text
    assert "40.7" not in text


def test_on_imagenet_the_published_errors_are_printed_with_their_views(tmp_path):
    log = write_log(tmp_path / "metrics.jsonl", LINES)
    text = summary.ending(tmp_path / "run", log, 20, classes=1000, validation_images=50_000)
    (ten,) = [line for line in text if "40.70" in line]
    assert "ten crops, ILSVRC-2012" in ten
    assert "18.20" in ten
    assert any("centre crop, ILSVRC-2012" in line and "42.90" in line for line in text)
