"""Counts by hand, and a log that survives a kill."""

import torch

from trainer.metrics import Counts, RunLog, count, read_log


def test_counts_ranks_by_hand():
    scores = torch.tensor([[9.0, 8, 7, 6, 5, 4], [9.0, 8, 7, 6, 5, 4], [9.0, 8, 7, 6, 5, 4]])
    assert count(scores, torch.tensor([0, 4, 5])) == Counts(images=3, top1_wrong=2, top5_wrong=1)


def test_a_network_that_says_the_same_of_all_classes_is_not_right_by_ties():
    labels = torch.arange(10)
    assert count(torch.zeros(10, 10), labels) == Counts(10, 9, 5)


def test_scores_that_are_not_numbers_are_wrong():
    assert count(torch.full((2, 10), float("nan")), torch.tensor([0, 3])) == Counts(2, 2, 2)


def test_counts_add_up():
    total = Counts(3, 2, 1) + Counts(5, 1, 0)
    assert total == Counts(8, 3, 1)
    assert total.top1_error == 3 / 8


def test_a_resumed_log_drops_what_will_be_done_again_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = RunLog(path)
    for step in (10, 20, 30):
        log.write(step=step, loss=1.0 / step)
    log.close()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    resumed = RunLog(path, resume_step=20)
    resumed.write(step=30, loss=0.5)
    resumed.close()
    assert [(line["step"], line["loss"]) for line in read_log(path)] == [(10, 0.1), (20, 0.05), (30, 0.5)]
