"""A trained network that is opened without MPI sees what the training command's own evaluation saw."""

import numpy as np
import pytest
import torch

from tests.launch import ROOT, run
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.evaluation.metrics import Tally
from trainer.evaluation.pretrained import open_trained
from trainer.runs.log import read_log


@pytest.fixture(scope="module")
def trained(small_run):
    return open_trained(small_run, "latest", device="cpu")


@pytest.fixture(scope="module")
def pictures(tiny_store):
    split = open_data(tiny_store).val
    return split.read(np.arange(len(split))), torch.from_numpy(split.labels.astype(np.int64))


def test_its_errors_are_those_that_the_run_logged(trained, pictures, small_run):
    images, labels = pictures
    scores = torch.from_numpy(trained.probabilities(images, batch=7))
    counts = Tally(scores.shape[1]).add(scores, labels).counts
    last = [line for line in read_log(small_run / "metrics.jsonl") if "val_top1_error" in line][-1]
    assert (counts.top1_error, counts.top5_error) == (last["val_top1_error"], last["val_top5_error"])


def test_ten_crops_average_softmax_outputs_of_views_cut_by_hand(trained, pictures):
    images = pictures[0][:3]
    scaled = (images.astype(np.float64) - trained.mean_SS3) / trained.config.augment.divisor
    views = []
    for top, left in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16)):
        crop = scaled[:, top : top + 224, left : left + 224]
        views += [crop, crop[:, :, ::-1]]
    outputs = [
        trained.logits(torch.from_numpy(v.copy()).float().permute(0, 3, 1, 2)).softmax(1) for v in views
    ]
    expected = torch.stack(outputs).double().mean(0).numpy()
    np.testing.assert_allclose(trained.probabilities(images, ten_crop=True, batch=2), expected, atol=1e-6)
    assert np.abs(trained.probabilities(images) - expected).max() > 1e-6


def test_features_times_fc8_are_the_logits(trained, pictures):
    images = pictures[0][:5]
    features = trained.features(images, batch=2).astype(np.float64)
    a, b = (tower.fc8 for tower in trained.towers)
    fc8 = np.concatenate([a.weight.numpy(), b.weight.numpy()], axis=1).astype(np.float64)
    logits = features @ fc8.T + a.bias.numpy()
    np.testing.assert_allclose(trained.logits(trained.inputs(images, (16, 16, False))), logits, atol=1e-5)
    assert features.shape == (5, 2 * trained.config.network.hidden)


def test_a_checkpoints_own_folder_opens_that_checkpoint(small_run):
    folder = sorted((small_run / "checkpoints").glob("step-*"))[0]
    opened = open_trained(folder, device="cpu")
    assert (opened.source, opened.run) == (folder, small_run)


def test_it_opens_where_mpi_is_missing(small_run):
    lines = (
        "import sys; sys.modules['mpi4py'] = None",
        "from pathlib import Path; from trainer.evaluation.pretrained import open_trained",
        f"print(len(open_trained(Path({str(small_run)!r})).classes))",
    )
    done = run("python", "-c", "\n".join(lines), cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


def test_what_is_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        open_trained(tmp_path)
    with pytest.raises(UserError, match=r"python -m trainer\.export"):
        open_trained(tmp_path / "none.safetensors")
