"""What a run's folder says is true: read from anywhere, removed in mid-run, and on a disk that is full."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.launch import ranks
from tests.test_failure import training, wait_for
from tests.trainer import in_process
from tests.trainer.in_process import SMALL, logged, train
from trainer import run as command
from trainer.config import OptimizerConfig, from_dict, with_changes
from trainer.data.batches import open_data
from trainer.evaluate import main as evaluate_command
from trainer.runs import resuming, run_folder
from trainer.runs.log import read_log
from trainer.training.schedule import Schedule


@pytest.mark.parametrize(("how", "size"), [("removed", 2), ("moved", 1)])
def test_a_run_that_is_taken_away_in_mid_run_is_no_complete_one(how, size, tiny_store, tmp_path):
    with training(size, tiny_store, tmp_path, "--checkpoint-every", "50") as (job, output):
        if how == "removed":
            while (tmp_path / "run").exists():  # the run may add to it meanwhile
                shutil.rmtree(tmp_path / "run", ignore_errors=True)
        else:
            (tmp_path / "run").rename(tmp_path / "elsewhere")
        code = job.wait(timeout=120)
    text = output.read_text()
    assert code not in (0, 75), text
    assert "error: " in text
    assert "Traceback" not in text
    assert not (tmp_path / "run" / "complete").exists()
    if how == "moved":  # the run goes on where it is now
        last = len(logged(tmp_path / "elsewhere", "loss")) // 50 * 50
        flags = ("--run", tmp_path / "elsewhere", "--max-steps", last + 1)
        done = in_process.command("run", *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for a few small checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a disk of a few megabytes cannot be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Take all that is free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return filler


@pytest.mark.privileged
def test_a_disk_that_fills_under_the_log_is_a_sentence_and_so_is_going_on_while_it_is_full(
    small_disk, tiny_store, tmp_path
):
    with training(2, tiny_store, small_disk, "--checkpoint-every", "3", output=tmp_path / "out") as (
        job,
        out,
    ):
        wait_for(small_disk / "run" / "checkpoints" / "latest")
        fill(small_disk)
        code = job.wait(timeout=120)
    text = out.read_text()
    assert code == 1, text
    assert "No space left on device; make room there" in text or "No space left on device: " in text, text
    assert "Traceback" not in text
    assert text.count("error: ") == 1

    run = ("--run", str(small_disk / "run"))
    again = ranks(2, "-m", "trainer.run", *run, "--max-steps", "5000", cwd=tmp_path)
    assert again.returncode == 1, again.stderr
    assert "No space left on device" in again.stderr
    assert "Traceback" not in again.stderr

    last = int((small_disk / "run" / "checkpoints" / "latest").read_text().removeprefix("step-"))
    (small_disk / "filler").unlink()
    done = in_process.command("run", *run, "--max-steps", last + 2, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"continuing from step {last}" in done.stdout
    assert logged(small_disk / "run", "loss") == list(range(1, last + 3))


def test_a_bare_command_next_to_an_unfinished_run_of_another_store_starts_anew(
    tiny_store, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "auto-001"
    assert train(tiny_store, folder, "--max-steps", "2") == 0
    (folder / "complete").unlink()
    bare = with_changes(run_folder.read_config(folder), folder=None)
    store = open_data(tiny_store)
    assert resuming.choose(bare, store)[0] == Path("runs/auto-001")
    record = json.loads((folder / "config.json").read_text()) | {"store": "another"}
    (folder / "config.json").write_text(json.dumps(record))
    assert resuming.choose(bare, store)[0] == Path("runs/auto-002")


def test_a_run_is_read_from_anywhere(tiny_store, tmp_path, monkeypatch):
    (tmp_path / "here" / "data").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "data" / "imagenet256.zarr").symlink_to(tiny_store)
    monkeypatch.chdir(tmp_path / "here")
    assert train(Path("data/imagenet256.zarr"), Path("runs/mine"), "--max-steps", "1") == 0
    found = json.loads(Path("runs/mine/config.json").read_text())["config"]["run"]
    assert Path(found["store"]).is_absolute()
    assert Path(found["folder"]) == tmp_path / "here" / "runs" / "mine"
    monkeypatch.chdir(tmp_path / "there")
    target = tmp_path / "errors.json"
    evaluate_command(["--run", "../here/runs/mine", "--json", str(target)])
    assert json.loads(target.read_text())["images"] == 30
    with pytest.raises(SystemExit) as leaving:
        command.main(["--run", "../here/runs/mine", "--max-steps", "2"])
    assert leaving.value.code == 0


def test_the_precision_is_saved_as_it_was_settled_and_stays(tiny_store, tmp_path, monkeypatch, capsys):
    flags = (*SMALL[: SMALL.index("--precision")], "--no-figures")
    monkeypatch.chdir(tmp_path)

    def start(*more):
        with pytest.raises(SystemExit) as leaving:
            command.main(["--store", str(tiny_store), *flags, *more])
        assert leaving.value.code == 0
        return json.loads(Path("runs/auto-001/config.json").read_text())

    monkeypatch.setattr(
        "trainer.commands.run.resolve_precision", lambda wish, device: wish.replace("auto", "float32")
    )
    assert start("--max-steps", "1")["config"]["hardware"]["precision"] == "float32"
    Path("runs/auto-001/complete").unlink()
    # Another machine would take bfloat16; the run stays what it is unless it is told otherwise.
    monkeypatch.setattr(
        "trainer.commands.run.resolve_precision", lambda wish, device: wish.replace("auto", "bfloat16")
    )
    assert start("--max-steps", "2")["config"]["hardware"]["precision"] == "float32"
    assert not Path("runs/auto-002").exists()
    record = start("--run", "runs/auto-001", "--max-steps", "3", "--precision", "bfloat16")
    assert record["config"]["hardware"]["precision"] == "bfloat16"
    assert record["changes"][-1]["changed"] == {"precision": ["float32", "bfloat16"]}


def test_a_bare_command_keeps_what_an_earlier_start_changed(tiny_store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    same = ("--epochs", "3", "--lr", "0.001")

    def bare(*more):
        with pytest.raises(SystemExit) as leaving:
            command.main(["--store", str(tiny_store), *SMALL, *more])
        assert leaving.value.code == 0

    bare(*same, "--max-steps", "2")
    bare("--run", "runs/auto-001", "--lr", "0.0005", "--max-steps", "3")
    (tmp_path / "runs" / "auto-001" / "complete").unlink()
    bare(*same, "--max-steps", "4", "--log-every", "1")
    assert [path.name for path in Path("runs").iterdir()] == ["auto-001"]
    assert run_folder.read_config(Path("runs/auto-001")).optim.lr == 0.0005
    assert read_log(Path("runs/auto-001/metrics.jsonl"))[-2]["lr"] < 0.0005


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "named"),
    [
        (10, 8, 2, [1, 2]),  # 1.25 steps an epoch: three steps, the second and third end one
        (10, 64, 2, [2]),  # one step shows each image 6.4 times
        (10, 4, 3, [1, 2, 3]),
        (7, 3, 4, [1, 2, 3, 4]),
        (1_281_167, 128, 90, list(range(1, 91))),
    ],
)
def test_epochs_are_counted_by_the_images_that_were_seen(images, batch, epochs, named):
    """By hand: epoch e ends in step ceil(e * images / batch); ends in one step are counted as one."""
    schedule = Schedule(OptimizerConfig(batch_size=batch, epochs=epochs, lr=0.1), images / batch)
    ends = [-(-e * images // batch) for e in range(1, epochs + 1)]
    assert schedule.last_step() == ends[-1]
    found = [s for s in sorted({*ends, *(e - 1 for e in ends if e > 1)}) if schedule.ends_epoch(s)]
    assert found == sorted(set(ends))
    assert [schedule.epochs_done(s) for s in found] == named


def test_a_batch_larger_than_the_set_is_pointed_out(tiny_store, tmp_path, capsys):
    flags = ("--batch-size", "64", "--epochs", "2")
    assert train(tiny_store, tmp_path / "run", *flags) == 0  # 60 images: two steps
    text = capsys.readouterr().out
    assert "a batch of 64 is larger than the training set of 60" in text
    assert [line for line in text.splitlines() if line.startswith("epoch ")][-1].startswith("epoch 2: ")


def test_a_file_is_no_run(tiny_store, tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert train(tiny_store, tmp_path / "run") == 1
    assert "is a file, not the folder of a run" in capsys.readouterr().err


def test_keep_must_keep_something(tiny_store, tmp_path, capsys):
    assert train(tiny_store, tmp_path / "run", "--keep", "0") == 1
    assert "--keep must be at least 1" in capsys.readouterr().err


def test_a_record_of_an_older_version_is_read(tiny_store, tmp_path, capsys):
    """It has no `changes`, a relative store, precision auto; its checkpoints have no training set."""
    folder = tmp_path / "run"
    assert train(tiny_store, folder, "--max-steps", "15") == 0
    record = json.loads((folder / "config.json").read_text())
    del record["changes"]
    config = record["config"]
    config["session"] = config.pop("run") | config.pop("hardware") | config.pop("checkpoint")
    config["session"] |= {
        "run": config["session"].pop("folder"),
        "precision": "auto",
        "store": os.path.relpath(tiny_store),
        "max_steps": 15,
    }
    (folder / "config.json").write_text(json.dumps(record))
    saved = folder / "checkpoints" / "step-00000015"
    for name in ("training_set.safetensors", "validation.json"):
        (saved / name).unlink()
    state = json.loads((saved / "state.json").read_text())
    for name in ("epoch_is_open", "previous"):
        del state[name]
    state |= {"best": {"top1_error": 0.5}, "schedule": {**state["schedule"], "best_error": 0.5}}
    (saved / "state.json").write_text(json.dumps(state))
    names = ("tower_a.safetensors", "tower_b.safetensors", "state.json")
    sums = {name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in names}
    (saved / "manifest.json").write_text(json.dumps({"sha256": sums}))
    assert from_dict(record["config"])
    evaluate_command(["--run", str(folder), "--store", str(tiny_store)])
    assert train(tiny_store, folder, "--max-steps", "16", "--precision", "float32") == 0
    assert "continuing from step 15" in capsys.readouterr().out
