"""Saved first, validated after: what ends a validation costs no epoch, and `best` is always the true best."""

import json
import os
import shutil
import signal
import time

import pytest

from tests.trainer.in_process import checkpoints, logged, marker, towers, train
from trainer.data.batches import evaluation_batches
from trainer.evaluate import main as evaluate_command
from trainer.runs import checkpoint, checkpoint_writer, going_back
from trainer.training import loop

FLAGS = ("--epochs", "3", "--keep", "1", "--log-every", "5")  # 15 steps an epoch


@pytest.fixture(scope="module")
def undisturbed(tiny_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(tiny_store, folder, *FLAGS) == 0
    return folder


def same_end(folder, undisturbed):
    assert marker(folder, "latest") == marker(undisturbed, "latest") == 45
    assert marker(folder, "best") == marker(undisturbed, "best")
    assert towers(folder, 45) == towers(undisturbed, 45)
    assert towers(folder, marker(folder, "best")) == towers(undisturbed, marker(folder, "best"))
    assert logged(folder, "val_top1_error") == [15, 30, 45]
    assert errors(folder) == errors(undisturbed)


def errors(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [found["val_top1_error"] for line in lines if "val_top1_error" in (found := json.loads(line))]


def test_each_epoch_is_validated_once_and_the_best_is_the_lowest_logged(undisturbed):
    found = errors(undisturbed)
    assert marker(undisturbed, "best") == 15 * (1 + found.index(min(found)))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_in_validation_saves_and_the_same_command_validates_first(
    number, undisturbed, tiny_store, tmp_path, monkeypatch, capsys
):
    def signalled(*arguments):
        os.kill(os.getpid(), number)
        return evaluation_batches(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("trainer.evaluation.validation.evaluation_batches", signalled)
        assert train(tiny_store, tmp_path / "run", *FLAGS) == 75
    assert "asked to stop: saved at step 15" in capsys.readouterr().out
    assert checkpoints(tmp_path / "run") == ["0015"]
    assert logged(tmp_path / "run", "val_top1_error") == []
    assert train(tiny_store, tmp_path / "run", *FLAGS) == 0
    assert "continuing from step 15" in capsys.readouterr().out
    same_end(tmp_path / "run", undisturbed)


def slow_disk(monkeypatch):
    """Each file of a checkpoint takes a tenth of a second."""
    at_once = checkpoint_writer._write_file

    def slowly(*arguments):
        time.sleep(0.1)
        return at_once(*arguments)

    monkeypatch.setattr(checkpoint_writer, "_write_file", slowly)


def test_a_damaged_validation_image_costs_no_epoch(undisturbed, tiny_store, tmp_path, capsys, monkeypatch):
    slow_disk(monkeypatch)
    store = shutil.copytree(tiny_store, tmp_path / "store.zarr")
    shard = store / "val" / "images" / "c" / "0" / "0" / "0" / "0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    for _ in range(2):  # however often it is tried
        assert train(store, tmp_path / "run", *FLAGS) == 1
        assert "does not match its checksum" in capsys.readouterr().err
        assert checkpoints(tmp_path / "run") == ["0015"]
    shard.write_bytes(whole)
    assert train(store, tmp_path / "run", *FLAGS) == 0
    assert "continuing from step 15" in capsys.readouterr().out
    same_end(tmp_path / "run", undisturbed)


class KilledError(Exception):
    """The process ends here."""


DEATHS = {
    "before the validation is recorded": (checkpoint_writer.Writer, "record_validation", 2),
    "before the best is named": (going_back, "set_markers", 2),
    "before the log has the line": (loop.RunLog, "has_validation", 2),
}


@pytest.mark.parametrize("moment", DEATHS)
@pytest.mark.parametrize("full", [False, True], ids=["killed", "full disk"])
def test_an_end_between_a_checkpoint_and_its_names_loses_neither(
    moment, full, undisturbed, tiny_store, tmp_path, monkeypatch, capsys
):
    """The second time that a name is set: the state knows an epoch more than the names."""
    where, name, time = DEATHS[moment]
    whole, calls = getattr(where, name), []

    def dies(*arguments):
        # Rank 0 sets the markers at a start too, before there is a checkpoint: only validations count.
        if name != "set_markers" or (arguments[0] / "step-00000015").exists():
            calls.append(name)
            if len(calls) == time:
                raise OSError(28, "No space left on device") if full else KilledError
        return whole(*arguments)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(where, name, dies)
        assert train(tiny_store, run, *FLAGS) == 1
    best = checkpoint.find(run, "best")[0]  # what an evaluation would take now
    recorded = checkpoint.recorded_errors(run / "checkpoints")
    assert recorded[best.path.name] == min(recorded.values())
    assert train(tiny_store, run, *FLAGS) == 0
    same_end(run, undisturbed)


def test_the_best_of_the_branch_is_named_after_going_back(undisturbed, tiny_store, tmp_path):
    run = tmp_path / "run"
    flags = ("--epochs", "3", "--keep", "9")
    assert train(tiny_store, run, *flags) == 0
    back = str(run / "checkpoints" / "step-00000015")
    assert train(tiny_store, run, *flags, "--resume", back, "--max-steps", "16") == 0
    recorded = checkpoint.recorded_errors(run / "checkpoints")
    assert set(recorded) == {"step-00000015", "step-00000016"}
    assert marker(run, "best") in (15, 16)
    assert recorded[f"step-{marker(run, 'best'):08d}"] == min(recorded.values())


def test_leftovers_of_interrupted_writing_are_removed(tiny_store, tmp_path):
    run = tmp_path / "run"
    assert train(tiny_store, run, *FLAGS, "--max-steps", "2") == 0
    folder = run / "checkpoints"
    (folder / ".step-00000009.partial").mkdir()
    (folder / ".step-00000001.pruned").mkdir()
    (folder / ".latest.123.partial").write_text("half")
    (run / ".config.json.123.partial").write_text("half")
    (run / ".metrics.jsonl.123.partial").write_text("half")
    (run / ".lock.elsewhere.123").write_text("")
    (folder / ".best.77.partial").write_text("half")
    (folder / "step-00000002" / ".validation.json.5.partial").write_text("half")
    assert train(tiny_store, run, *FLAGS, "--max-steps", "3") == 0
    assert list(run.rglob(".*")) == []


def test_a_run_that_is_told_its_steps_ends_with_an_error_that_was_measured(tiny_store, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(tiny_store, run, *FLAGS, "--max-steps", "7") == 0
    assert logged(run, "val_top1_error") == [7]
    assert "this run, centre crop, best" in capsys.readouterr().out
    # It is no epoch's: a longer run goes on as if it had not been measured.
    assert json.loads((run / "checkpoints" / "step-00000007" / "state.json").read_text())["schedule"] == {
        "best_error": None,
        "epochs_without": 0,
        "falls": 0,
    }


def test_a_signal_ends_an_evaluation_with_the_code_for_trying_again(
    undisturbed, tmp_path, monkeypatch, capsys
):
    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGUSR1)
        return evaluation_batches(*arguments)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.setattr("trainer.evaluation.validation.evaluation_batches", signalled)
    try:
        with pytest.raises(SystemExit) as leaving:
            evaluate_command(["--run", str(undisturbed), "--json", str(tmp_path / "errors.json")])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert leaving.value.code == 75
    assert "asked to stop" in capsys.readouterr().out
    assert not (tmp_path / "errors.json").exists()
