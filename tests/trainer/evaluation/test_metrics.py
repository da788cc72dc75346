"""Counts by hand, and a log that survives a kill."""

import numpy as np
import torch
from tensorboardX.proto import event_pb2

from trainer.evaluation.metrics import Counts, Tally
from trainer.runs.log import RunLog, read_log


def count(scores, labels):
    return Tally(scores.shape[1]).add(scores, torch.as_tensor(labels)).counts


def test_counts_ranks_by_hand():
    scores = torch.tensor([[9.0, 8, 7, 6, 5, 4], [9.0, 8, 7, 6, 5, 4], [9.0, 8, 7, 6, 5, 4]])
    found = count(scores, [0, 4, 5])
    assert found == Counts(images=3, top1_wrong=2, top5_wrong=1)
    assert (found.top1_error, found.top5_error) == (2 / 3, 1 / 3)


def test_a_network_that_says_the_same_of_all_classes_is_not_right_by_ties():
    assert count(torch.zeros(10, 10), range(10)) == Counts(10, 9, 5)


def test_scores_that_are_not_numbers_are_wrong():
    assert count(torch.full((2, 10), float("nan")), [0, 3]) == Counts(2, 2, 2)


def test_one_score_that_is_not_a_number_does_not_hide_the_others():
    nan = float("nan")
    scores = torch.tensor([[nan, 0.1, 0.6, 0.2, 0.1, 0.1]])
    assert count(scores, [2]) == Counts(1, 0, 0)
    assert count(scores, [3]) == Counts(1, 1, 0)
    assert count(scores, [0]) == Counts(1, 1, 1)
    assert np.argwhere(Tally(6).add(scores, torch.tensor([3])).confusion_KK).tolist() == [[3, 2]]


def test_counts_are_written_with_their_errors_and_read_back():
    counts = Counts(images=8, top1_wrong=6, top5_wrong=2)
    written = {"top1_error": 0.75, "top5_error": 0.25, "images": 8, "top1_wrong": 6, "top5_wrong": 2}
    assert counts.to_dict() == written
    assert Counts.from_dict(written) == counts


def test_a_confusion_matrix_and_errors_of_classes_by_hand():
    scores = torch.tensor(
        [
            [0.4, 0.3, 0.1, 0.1, 0.06, 0.04],
            [0.3, 0.4, 0.1, 0.1, 0.06, 0.04],
            [0.2, 0.2, 0.2, 0.2, 0.2, 0.0],  # a tie: class 0 is the guess
            [0.3, 0.2, 0.2, 0.1, 0.1, 0.1],  # of the last three equals class 5 comes last: sixth
            [float("nan")] * 6,  # no guess
        ]
    )
    tally = Tally(6).add(scores[:2], torch.tensor([0, 0])).add(scores[2:], torch.tensor([2, 5, 5]))
    expected = np.zeros((6, 6), int)
    expected[0, 0] = expected[0, 1] = expected[2, 0] = expected[5, 0] = 1
    assert np.array_equal(tally.confusion_KK, expected)
    assert tally.images_K.tolist() == [2, 0, 1, 0, 0, 2]
    assert tally.top1_wrong_K.tolist() == [1, 0, 1, 0, 0, 2]
    assert tally.top5_wrong_K.tolist() == [0, 0, 0, 0, 0, 2]


def test_sums_over_ranks_are_whole_numbers_class_by_class():
    rng = np.random.default_rng(0)
    scores, labels = torch.from_numpy(rng.normal(size=(50, 7))), torch.from_numpy(rng.integers(0, 7, 50))
    whole = Tally(7).add(scores, labels)
    doubled = whole.summed(lambda vector: 2 * vector)
    for name in ("images_K", "top1_wrong_K", "top5_wrong_K", "confusion_KK"):
        assert np.array_equal(getattr(doubled, name), 2 * getattr(whole, name)), name
    guess = scores.numpy().argmax(1)
    for true in range(7):
        for other in range(7):
            assert whole.confusion_KK[true, other] == ((labels.numpy() == true) & (guess == other)).sum()


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


def events(folder):
    """(step, tag, value) of all of a folder's event files, and the step from which each forgets older ones:
    TFRecords, read by hand: 8 bytes of length, 4 of its checksum, the event, 4 of its checksum."""
    found, purged = [], []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == event.session_log.START:
                purged.append(event.step)
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return found, purged


def test_tensorboard_gets_the_same_figures_and_forgets_what_is_done_again(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl")
    log.write(step=10, loss=0.5, silent={"fc7": 0.25}, device="cpu")
    log.write(step=20, val_top1_error=0.75)
    log.close()
    assert events(tmp_path) == (
        [(10, "training/loss", 0.5), (10, "training/silent/fc7", 0.25), (20, "validation/top1_error", 0.75)],
        [],
    )
    RunLog(tmp_path / "metrics.jsonl", resume_step=10).close()
    assert events(tmp_path)[1] == [11]  # TensorBoard's rule: steps from here on in older files do not count
