"""A network that diverges is not saved, and the command that the message names goes on from before it."""

import hashlib
import json
import re
import shlex
import shutil
import time

import numpy as np
import pytest
import safetensors.numpy

from tests.trainer.in_process import checkpoints, logged, marker, train
from trainer import run as command
from trainer.errors import UserError
from trainer.runs import checkpoint, checkpoint_writer
from trainer.runs.log import read_log

EVERY_STEP = ("--checkpoint-every", "1", "--keep", "1", "--epochs", "4", "--warmup-epochs", "0")


@pytest.fixture(scope="module")
def started(tiny_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("five") / "run"
    assert train(tiny_store, folder, *EVERY_STEP, "--lr", "0.001", "--max-steps", "5") == 0
    return folder


@pytest.fixture
def five_steps(started, tmp_path):
    """A run of five steps with its last two checkpoints."""
    return shutil.copytree(started, tmp_path / "run")


def remedy(text: str) -> list[str]:
    """The flags of the command that a message tells the user to type."""
    found = re.search(r"python -m trainer\.run (.*)", text)
    assert found, text
    return shlex.split(found[1])


# At a rate of 1 the network diverges within some steps, at 1e20 its weights are 1e18 and more after one.
@pytest.mark.parametrize("lr", ["1", "1e20"])
def test_the_checkpoint_from_before_is_kept_and_the_named_command_works(lr, five_steps, tiny_store, capsys):
    assert train(tiny_store, five_steps, *EVERY_STEP[:4], "--lr", lr, "--max-steps", "40") == 1
    text = capsys.readouterr().err
    assert "training diverged" in text
    for name in checkpoints(five_steps):
        weights = safetensors.numpy.load_file(
            five_steps / "checkpoints" / f"step-0000{name}" / "tower_a.safetensors"
        )
        assert max(np.abs(w).max() for w in weights.values()) < 1e6
    flags = remedy(text)
    assert flags[:4] == ["--run", str(five_steps), "--resume", f"{five_steps}/checkpoints/step-00000005"]
    lower = "0.001" if lr == "1e20" else flags[flags.index("--lr") + 1]  # a tenth of 1e20 is still too high
    flags[flags.index("--lr") + 1] = lower
    with pytest.raises(SystemExit) as leaving:
        command.main([*flags, "--max-steps", "8", "--no-figures"])
    assert leaving.value.code == 0
    assert marker(five_steps, "latest") == 8


def test_a_loss_that_is_not_finite_right_after_a_checkpoint_names_the_one_before(
    five_steps, tiny_store, capsys
):
    """The newest checkpoint itself has diverged, as an older version could save it."""
    newest = five_steps / "checkpoints" / "step-00000005"
    weights = safetensors.numpy.load_file(newest / "tower_a.safetensors")
    weights["conv3.weight"][:] = np.nan
    (newest / "tower_a.safetensors").write_bytes(safetensors.numpy.save(weights))
    manifest = json.loads((newest / "manifest.json").read_text())
    data = (newest / "tower_a.safetensors").read_bytes()
    manifest["sha256"]["tower_a.safetensors"] = hashlib.sha256(data).hexdigest()
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert train(tiny_store, five_steps, *EVERY_STEP[:4], "--max-steps", "8") == 1
    text = capsys.readouterr().err
    assert "The loss at step 5 is nan" in text
    assert f"--resume {five_steps}/checkpoints/step-00000004" in text
    with pytest.raises(SystemExit) as leaving:
        command.main([*remedy(text), "--max-steps", "8", "--no-figures"])
    assert leaving.value.code == 0
    assert logged(five_steps, "val_top1_error")[-1] == 8


def test_on_a_disk_slower_than_the_steps_the_markers_follow_and_old_checkpoints_go(
    tiny_store, tmp_path, monkeypatch
):
    write = checkpoint_writer.Writer._write

    def slowly(writer, state):
        time.sleep(0.5)
        write(writer, state)

    monkeypatch.setattr(checkpoint_writer.Writer, "_write", slowly)
    folder = tmp_path / "run"
    assert train(tiny_store, folder, *EVERY_STEP, "--lr", "0.001", "--max-steps", "5") == 0
    assert (marker(folder, "sound"), marker(folder, "latest")) == (4, 5)
    assert len(checkpoints(folder)) == 2


def test_without_a_sound_checkpoint_the_same_command_begins_anew_at_a_lower_rate(
    tiny_store, tmp_path, capsys
):
    same = (*EVERY_STEP, "--max-steps", "5")
    assert train(tiny_store, tmp_path / "run", *same, "--lr", "1e20") == 1
    text = capsys.readouterr().err
    assert "start the same command again with a lower rate, such as --lr 1e+19" in text
    assert checkpoints(tmp_path / "run") == []
    assert train(tiny_store, tmp_path / "run", *same, "--lr", "0.001") == 0


def test_a_run_without_a_checkpoint_is_trained_by_the_command_that_the_message_names(
    tiny_store, tmp_path, capsys
):
    folder = tmp_path / "run"
    assert train(tiny_store, folder, *EVERY_STEP, "--lr", "1e20", "--max-steps", "5") == 1
    with pytest.raises(UserError) as refused:
        checkpoint.find(folder)
    flags = remedy(str(refused.value))
    assert flags == ["--run", str(folder)]
    with pytest.raises(SystemExit) as leaving:
        command.main([*flags, "--lr", "0.001", "--max-steps", "1"])
    assert leaving.value.code == 0


def test_a_new_rate_and_schedule_are_written_into_the_record_and_the_log(five_steps, tiny_store, capsys):
    flags = ("--lr", "0.0005", "--schedule", "steps", "--lr-steps", "1", "--warmup-epochs", "0.5")
    assert train(tiny_store, five_steps, *flags, "--epochs", "6", "--max-steps", "7", "--log-every", "1") == 0
    assert "from step 5 on with --lr 0.0005 instead of 0.001" in capsys.readouterr().out
    record = json.loads((five_steps / "config.json").read_text())
    (change,) = record["changes"]
    assert change["step"] == 5
    expected = {
        "lr": [0.001, 0.0005],
        "schedule": ["cosine", "steps"],
        "lr_steps": [[], [1]],
        "warmup_epochs": [0.0, 0.5],
        "epochs": [4, 6],
    }
    assert change["changed"] == expected
    assert record["config"]["optim"]["lr"] == 0.0005
    lines = read_log(five_steps / "metrics.jsonl")
    assert [line["changed"] for line in lines if "changed" in line] == [expected]
    # Warm-up over half an epoch of 15 steps: the seventh step is at 7 / 7.5 of the rate.
    assert lines[-2]["lr"] == pytest.approx(0.0005 * 7 / 7.5)


def test_what_the_network_is_may_not_change(five_steps, tiny_store, capsys):
    for flags in (("--dropout", "0.3"), ("--batch-size", "8"), ("--seed", "3"), ("--momentum", "0.5")):
        assert train(tiny_store, five_steps, *flags) == 1
        assert "was started with other settings" in capsys.readouterr().err


def test_the_remedies_of_a_dying_network_work(tiny_store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dying = ("--init-bias", "-100", "--log-every", "1", "--max-steps", "3")
    assert train(tiny_store, tmp_path / "run", *dying) == 0
    text = capsys.readouterr().out
    found = re.search(r"start a new run with a lower rate \((--lr \S+)\), a longer warm-up \((--.*?)\)", text)
    assert found, text
    for number, flags in enumerate(found.groups()):
        assert train(tiny_store, tmp_path / f"new-{number}", *flags.split(), "--max-steps", "1") == 0
