"""Experiments that train with `trainer.run`: ablations, and the same training with several seeds."""

import dataclasses
import json
import shlex
import shutil

import pytest
import torch

from tests.launch import NETWORK
from tests.trainer.in_process import command
from trainer.data.batches import open_data
from trainer.errors import UserError
from trainer.experiments import ablations, repeat, runs
from trainer.parallel.device import resolve_precision
from trainer.runs import run_folder
from trainer.runs.log import read_log

SMALL = f"--flags={shlex.join(NETWORK)} --batch-size 16"


def test_ablations_compute_the_added_error_and_its_standard_error():
    (row,) = ablations.compare({"whole": [(40.0, 20.0)], "lrn": [(42.5, 19.0)]}, images=400)
    assert (row["top1_added"], row["top5_added"], row["paper_top1_added"]) == (2.5, -1.0, 1.4)
    # sqrt(0.4 0.6 / 400 + 0.425 0.575 / 400) = 0.03480
    assert row["top1_chance"] == pytest.approx(3.480, abs=1e-3)
    text = ablations.table([row], [(40.0, 20.0)], 400)
    assert "| without LRN | +2.50 | +2.5 | 3.48 | +1.40 | -1.00 | +1.20 | section 3.3 |" in text


def test_ablations_compare_each_seed_with_its_own_whole_network():
    whole, without = [(40.0, 20.0), (42.0, 22.0)], [(41.0, 20.0), (45.0, 21.0)]
    (row,) = ablations.compare({"whole": whole, "dropout": without}, images=1000)
    assert row["top1_added_by_seed"] == [1.0, 3.0]
    assert (row["top1_added"], row["top5_added"], row["top1_error"]) == (2.0, -0.5, 43.0)
    text = ablations.table([row], whole, 1000)
    assert "| without dropout | +2.00 | +1.0 +3.0 |" in text
    assert "The whole network: 41.00 % top-1, 21.00 % top-5 error" in text
    assert "mean of 2 seeds" in text


def test_the_ablations_command_trains_compares_and_continues(tiny_store, tmp_path):
    settings = ("--store", str(tiny_store), "--epochs", "1", "--parts", "towers", "--seeds", "0", SMALL)
    words = ("experiments", "ablations", *settings)
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "| one tower |" in done.stdout
    folder = tmp_path / "runs/ablations"
    config = json.loads((folder / "towers/seed-0/config.json").read_text())["config"]
    assert (config["network"]["towers"], config["network"]["hidden"]) == (1, 32)
    assert {"ablations.md", "ablations.json", "ablations.svg", "ablations.png"} <= {
        path.name for path in folder.iterdir()
    }
    again = command(*words, cwd=tmp_path)
    assert "$ " not in again.stdout  # both runs are complete
    assert again.returncode == 0, again.stderr

    # The runs in the folder are used with these settings alone, complete or not.
    settled = resolve_precision("auto", torch.device("cpu"))
    other_precision = "float32" if settled == "bfloat16" else "bfloat16"
    table = (folder / "ablations.md").read_bytes()
    for complete in (True, False):
        if not complete:
            (folder / "towers/seed-0/complete").unlink()
            shutil.rmtree(folder / "whole")
        for flags, sentence in {
            ("--epochs", "2"): "--epochs was 1, now 2",
            ("--recipe", "paper"): "--recipe was auto, now paper; ",
            (f"--flags={shlex.join(NETWORK)}",): "--batch-size was 16, now 32",
            (f"{SMALL} --precision {other_precision}",): f"--precision was {settled}, now {other_precision}",
            (SMALL + " --gradient-dtype bfloat16",): "--gradient-dtype was float32, now bfloat16",
        }.items():
            other = command(*words, *flags, cwd=tmp_path)
            assert other.returncode == 1, other.stdout
            which = "whole" if complete else "towers"
            assert f"runs/ablations/{which}/seed-0 was made with other settings: " in other.stderr
            assert sentence in other.stderr
            assert f"Name another --out, or remove runs/ablations/{which}/seed-0." in other.stderr
            assert "$ " not in other.stdout  # nothing was trained
            assert "Traceback" not in other.stderr
    assert (folder / "ablations.md").read_bytes() == table


def test_repeat_trains_and_evaluates_each_seed_once(tiny_store, tmp_path):
    words = ("experiments", "repeat", "--store", str(tiny_store), "--epochs", "1", f"{SMALL} --log-every 1")
    done = command(*words, "--seeds", "0", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    folder = tmp_path / "runs/repeat"
    found = json.loads((folder / "repeat.json").read_text())["rows"]
    assert [row["seed"] for row in found] == [0, 1]
    for row in found:
        log = read_log(folder / f"seed-{row['seed']}" / run_folder.LOG)
        last = [line for line in log if "val_top1_error" in line][-1]
        assert row["top1_error"] == 100 * last["val_top1_error"]
        crops = json.loads((folder / f"seed-{row['seed']}" / "ten-crops.json").read_text())
        assert (row["ten_crop_top1_error"], crops["views"]) == (100 * crops["top1_error"], 10)
        assert row["correlation"] == pytest.approx(0, abs=0.1)  # of filters as they were drawn
        assert 0.5 < row["colour_a"] < 0.8  # noise has 2/3
    text = (folder / "repeat.md").read_text()
    assert "| mean |" in text
    assert "| standard deviation |" in text
    assert {"repeat.png", "repeat.svg"} <= {path.name for path in folder.iterdir()}
    more = command(*words, "--seeds", "0", "1", "2", cwd=tmp_path)  # a third seed joins the two
    started = [line for line in more.stdout.splitlines() if line.startswith("$ ")]
    assert len(started) == 2, more.stdout
    assert all("seed-2" in line for line in started)


def test_the_mean_and_the_spread_of_seeds():
    rows = [
        {"seed": s, "top1_error": e, "top5_error": 1.0, "minutes": 2.0} for s, e in enumerate((10, 12, 17))
    ]
    text = repeat.table(rows, 1000, 4)
    assert "| mean | 13.00 | 1.00 | 2.0 |" in text
    assert "| standard deviation | 3.61 | 0.00 | 0.0 |" in text  # sqrt((9 + 1 + 16) / 2)
    assert "| mean |" not in repeat.table(rows[:1], 1000, 4)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("ablations", "--seeds"), "at least one seed"),
        (("repeat", "--seeds", "1", "1"), "each seed once"),
        (("ablations", "--parts"), "at least one part"),
    ],
    ids=" ".join,
)
def test_nothing_to_train_is_a_clear_error(flags, sentence, tmp_path):
    done = command("experiments", *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr


@pytest.fixture
def wanted(tiny_store, tmp_path):
    """The store, and a run without LRN that is not trained yet."""
    store, arguments = open_data(tiny_store), ablations.Arguments(store=tiny_store, out=tmp_path)
    return store, ablations.of_seed(arguments, 0, store)["lrn"]


def write(run, store, changes=()):
    run_folder.write_config(run.folder, run.settings, store.fingerprint, changes)
    (run.folder / run_folder.COMPLETE).touch()


def test_a_run_of_another_store_is_not_used(wanted):
    store, run = wanted
    runs.require_same_run(run, store)  # there is none
    write(run, store)
    runs.require_same_run(run, store)
    run_folder.write_config(run.folder, run.settings, "0" * 64)
    with pytest.raises(
        UserError, match=r"seed-0 was made with other settings: the store was .* with other images"
    ):
        runs.require_same_run(run, store)


def test_a_run_of_another_part_is_not_used(wanted):
    store, run = wanted
    write(run, store)
    whole = dataclasses.replace(run.settings, network=dataclasses.replace(run.settings.network, lrn=True))
    with pytest.raises(UserError, match=r"--lrn was False, now True. Name another --out, or remove"):
        runs.require_same_run(dataclasses.replace(run, settings=whole), store)


def test_a_run_whose_settings_changed_while_it_trained_is_not_used(wanted):
    store, run = wanted
    write(run, store, [{"step": 4, "changed": {"lr": [0.1, run.settings.optim.lr]}}])
    with pytest.raises(UserError, match=r"--lr changed while it trained[.] Name another --out, or remove"):
        runs.require_same_run(run, store)


@pytest.mark.parametrize("epochs", [None, 3])
def test_a_run_that_ended_early_has_no_last_errors(epochs, wanted):
    store, run = wanted
    write(run, store)
    line = {"step": 9, "epoch": epochs, "val_top1_error": 0.5, "val_top5_error": 0.25}
    (run.folder / run_folder.LOG).write_text(json.dumps(line if epochs else {"step": 9}) + "\n")
    with pytest.raises(
        UserError, match="ended after epoch 3 of" if epochs else "before its first validation"
    ):
        runs.last_errors(run)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"config": {"model": 3}}'])
def test_a_complete_run_without_its_settings_is_not_used(content, wanted):
    store, run = wanted
    run.folder.mkdir(parents=True)
    (run.folder / run_folder.COMPLETE).touch()
    if content:
        (run.folder / run_folder.CONFIG).write_text(content)
    with pytest.raises(
        UserError, match=f"{run.folder} cannot be continued: .*[.] Name another --out, or remove"
    ):
        runs.require_same_run(run, store)
