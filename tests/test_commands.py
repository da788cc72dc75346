"""The user's own commands, as typed, on a small store."""

import json
import re

import pytest

from preprocess.store import open_store
from tests.launch import NETWORK, left_in_shared_memory, ranks, run, unmapped_shared_memory
from tests.trainer.in_process import command
from trainer.config import NetworkConfig
from trainer.model.network import Tower
from trainer.runs.log import read_log

# Narrow layers; the paper's recipe has a test with its own widths.
QUICK = ("--epochs", "1", "--batch-size", "16", "--log-every", "1", "--no-figures")
QUICK += NETWORK


@pytest.fixture(scope="module")
def workplace(tiny_store, tmp_path_factory):
    """A folder in which the defaults hold: data/imagenet256.zarr is there, runs/ is not."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "data").mkdir()
    (folder / "data" / "imagenet256.zarr").symlink_to(tiny_store)
    return folder


@pytest.fixture(scope="module")
def trained(workplace):
    """What a pair of ranks prints, and the run it leaves."""
    return ranks(2, "-m", "trainer.run", *QUICK, cwd=workplace)


def test_training_leaves_a_complete_run(trained, workplace):
    assert trained.returncode == 0, trained.stdout + trained.stderr
    folder = workplace / "runs" / "auto-001"
    assert (folder / "complete").exists()
    assert {"config.json", "metrics.jsonl", "checkpoints"} <= {p.name for p in folder.iterdir()}
    lines = read_log(folder / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]  # ceil(60 / 16)
    assert all({"epoch", "loss", "lr", "images_per_second"} <= line.keys() for line in steps)
    (epoch,) = [line for line in lines if "val_top1_error" in line]
    assert 0 <= epoch["val_top5_error"] <= epoch["val_top1_error"] <= 1


def test_one_rank_prints_for_all_and_gives_its_reasons(trained):
    text = trained.stdout + trained.stderr
    assert text.count("a new run") == 1
    assert "warm-up over" in text
    assert "img/s" in text


def test_evaluation_finds_the_latest_run_and_gives_the_same_errors_alone_and_in_pairs(trained, workplace):
    found = []
    for views, count, flags in ((1, 1, ()), (10, 1, ("--ten-crop",)), (10, 2, ("--ten-crop",))):
        target = workplace / f"{count}-{views}.json"
        arguments = (*flags, "--json", str(target))
        if count == 1:
            done = command("evaluate", *arguments, cwd=workplace)
        else:
            done = ranks(count, "-m", "trainer.evaluate", *arguments, cwd=workplace)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "top-1 error" in done.stdout
        found.append(json.loads(target.read_text()))
        assert found[-1]["images"] == 30
        assert found[-1]["views"] == views
        assert found[-1]["checkpoint"].endswith("step-00000004")
    assert found[1]["top1_error"] == found[2]["top1_error"]


def test_going_on_for_longer_takes_up_the_finished_run(trained, workplace):
    done = command("run", "--run", "runs/auto-001", "--epochs", "2", *QUICK[2:], cwd=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continuing from step 4" in done.stdout + done.stderr
    lines = read_log(workplace / "runs" / "auto-001" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))


def test_other_settings_do_not_go_on_with_a_run(trained, workplace):
    done = command("run", "--run", "runs/auto-001", *QUICK, "--dropout", "0.3", cwd=workplace)
    assert done.returncode == 1
    assert "--dropout was 0.5, now 0.3" in done.stderr


def test_eight_ranks_train(workplace):
    done = ranks(
        8, "-m", "trainer.run", *QUICK, "--max-steps", "2", "--run", "runs/eight", cwd=workplace, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (workplace / "runs" / "eight" / "complete").read_text() == "2 steps\n"


@pytest.mark.parametrize(
    ("recipe", "narrow"),
    [("paper", ()), ("cuda-convnet", NETWORK)],
    ids=["paper", "cuda-convnet"],
)
def test_the_recipes_of_2012_run(recipe, narrow, workplace):
    folder = f"runs/{recipe}-test"
    flags = ("--recipe", recipe, *narrow, "--max-steps", "1", "--run", folder, "--no-figures")
    done = command("run", *flags, cwd=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    config = json.loads((workplace / folder / "config.json").read_text())["config"]
    assert (config["recipe"], config["optim"]["batch_size"], config["optim"]["lr"]) == (recipe, 128, 0.01)


def test_what_a_user_can_mend_is_one_sentence(workplace):
    before = unmapped_shared_memory()
    flags = ("--run", "runs/never", "--batch-size", "33")
    done = ranks(4, "-m", "trainer.run", *flags, cwd=workplace)
    assert done.returncode != 0
    assert "--batch-size must be a multiple of 2" in done.stderr
    assert "MPI_Abort" not in done.stderr  # all ranks refuse, so none has to end the others
    assert not left_in_shared_memory(before)
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--run", "runs/never", "--store", "nowhere.zarr"), "run `snakemake preprocess`"),
        (("--run", "runs/never", "--resume", "runs/none/step-1"), "it does not exist"),
    ],
    ids=["no store", "no checkpoint"],
)
def test_what_is_not_there_is_one_sentence(flags, sentence, workplace):
    done = command("run", *flags, cwd=workplace)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_counts_and_writes_nothing(tiny_store, tmp_path):
    small = NetworkConfig(filters=(6, 8, 12, 12, 8), hidden=32)
    flags = (*NETWORK, "--batch-size", "16", "--epochs", "2")
    done = ranks(
        2, "-m", "trainer.run", "--store", str(tiny_store), *flags, "--dry-run", cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    classes = len(open_store(tiny_store).classes)
    tower = sum(p.numel() for p in Tower(small, classes, "a").parameters())
    assert f"{tower:,} parameters x 12 bytes" in done.stdout
    assert "steps: 8 of 16 images, to step 8: 2.1 epochs of 60 images" in done.stdout  # ceil(120 / 16)
    assert re.search(r"[1-9][\d.]* [kM]B  kept for the backward pass by 16 images", done.stdout)
    assert re.search(r"time: about \d", done.stdout)


def test_evaluation_without_a_run_says_how_to_make_one(tmp_path):
    done = command("evaluate", cwd=tmp_path)
    assert done.returncode == 1
    assert "train first" in done.stderr


def test_an_unknown_flag_is_refused_with_a_suggestion(tmp_path):
    done = run("python", "-m", "trainer.run", "--batchsize", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "--batch-size" in done.stdout + done.stderr
