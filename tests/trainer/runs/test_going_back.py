"""Going back sets later steps aside, loses none of them, and what was left is never followed by itself."""

import hashlib
import shutil

import pytest

from tests.trainer.in_process import checkpoints, logged, marker, towers, train
from trainer.errors import UserError
from trainer.runs import checkpoint, going_back

EVERY_3 = ("--checkpoint-every", "3", "--epochs", "4", "--log-every", "1", "--keep", "9")


@pytest.fixture(scope="module")
def twelve_steps(tiny_store, tmp_path_factory):
    """A run of 12 steps with a checkpoint every 3."""
    folder = tmp_path_factory.mktemp("twelve") / "run"
    assert train(tiny_store, folder, *EVERY_3, "--max-steps", "12") == 0
    return folder


@pytest.fixture
def run(twelve_steps, tmp_path):
    return shutil.copytree(twelve_steps, tmp_path / "run")


def step(folder, number):
    return str(folder / "checkpoints" / f"step-{number:08d}")


def test_later_checkpoints_are_set_aside_and_a_plain_command_follows_the_new_branch(run, tiny_store, capsys):
    assert train(tiny_store, run, *EVERY_3, "--resume", step(run, 6), "--max-steps", "8") == 0
    text = capsys.readouterr().out
    assert "2 checkpoints, step-00000009 to step-00000012, were set aside in" in text
    assert checkpoints(run) == ["0003", "0006", "0008"]
    aside = run / "checkpoints" / "set-aside-001"
    assert sorted(p.name for p in aside.glob("step-*")) == ["step-00000009", "step-00000012"]
    assert checkpoint.check(aside / "step-00000012") is None
    assert logged(aside, "loss") == list(range(1, 13))  # the log of what was left

    assert train(tiny_store, run, *EVERY_3, "--max-steps", "10") == 0
    assert "continuing from step 8" in capsys.readouterr().out
    assert logged(run, "loss") == list(range(1, 11))
    assert checkpoint.check(aside / "step-00000012") is None


def test_a_branch_that_was_set_aside_can_be_returned_to(run, twelve_steps, tiny_store, capsys):
    assert train(tiny_store, run, *EVERY_3, "--resume", step(run, 6), "--max-steps", "7") == 0
    left = str(run / "checkpoints" / "set-aside-001" / "step-00000012")
    assert train(tiny_store, run, *EVERY_3, "--resume", left, "--max-steps", "15") == 0
    straight = shutil.copytree(twelve_steps, run.with_name("straight"))
    assert train(tiny_store, straight, *EVERY_3, "--max-steps", "15") == 0
    assert towers(run, 15) == towers(straight, 15)
    assert logged(run, "loss") == list(range(1, 16))
    assert marker(run, "latest") == 15


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_kill_while_folders_move_is_made_good_by_the_next_start(run, moved, monkeypatch):
    """Of two checkpoints to set aside, none, one or both have moved when the process dies."""
    found = checkpoint.verified(run / "checkpoints" / "step-00000006")
    write = going_back.write_atomically
    renames = []

    def dies(self, target):
        if "set-aside" in str(target) and "step-" in str(target):
            if len(renames) == moved:
                raise KeyboardInterrupt
            renames.append(target)
        return rename(self, target)

    def dies_at_latest(path, data):
        if path.name == "latest" and moved == 2:
            raise KeyboardInterrupt
        write(path, data)

    path_type = type(run)
    rename = path_type.rename
    with monkeypatch.context() as patch:
        patch.setattr(path_type, "rename", dies)
        patch.setattr(going_back, "write_atomically", dies_at_latest)
        with pytest.raises(KeyboardInterrupt):
            going_back.continue_from(run, found)
    going_back.repair(run)
    assert marker(run, "latest") == 6
    assert checkpoints(run) == ["0003", "0006"]
    aside = run / "checkpoints" / "set-aside-001"
    assert sorted(p.name for p in aside.iterdir()) == ["metrics.jsonl", "step-00000009", "step-00000012"]


def test_a_kill_before_the_newest_is_named_makes_it_the_latest(run):
    (run / "checkpoints" / "latest").write_text("step-00000009")
    going_back.repair(run)
    assert marker(run, "latest") == 12


def test_what_an_older_version_left_after_latest_is_set_aside_not_followed(run, tiny_store, capsys):
    """Steps 9 and 12 do not continue step 6 by their own record, as after a going back of older versions."""
    for later in (9, 12):
        state = run / "checkpoints" / f"step-{later:08d}" / "state.json"
        state.write_text(state.read_text().replace('"previous"', '"unknown"'))
        manifest = state.with_name("manifest.json")
        sums = {
            p.name: checkpoint_sum(p) for p in state.parent.iterdir() if "json" not in p.name or p == state
        }
        manifest.write_text('{"sha256": ' + str(sums).replace("'", '"') + "}")
    (run / "checkpoints" / "latest").write_text("step-00000006")
    assert train(tiny_store, run, *EVERY_3, "--max-steps", "7") == 0
    text = capsys.readouterr().out
    assert "continuing from step 6" in text
    assert "were set aside" in text
    assert marker(run, "latest") == 7


def checkpoint_sum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_checkpoint_of_another_run_is_copied_in_so_that_no_kill_starts_anew(
    run, tiny_store, tmp_path, capsys
):
    other = tmp_path / "other"
    assert train(tiny_store, other, *EVERY_3, "--resume", step(run, 6), "--max-steps", "6") == 0
    assert checkpoints(other) == ["0006"]  # before any step
    assert train(tiny_store, other, *EVERY_3, "--max-steps", "7") == 0
    assert "continuing from step 6" in capsys.readouterr().out
    assert marker(run, "latest") == 12  # the run that it is from stays as it was


@pytest.mark.parametrize("keep", ["1", "3"])
def test_a_damaged_newest_is_set_aside_and_good_ones_are_kept(run, tiny_store, keep, capsys):
    tower = run / "checkpoints" / "step-00000012" / "tower_a.safetensors"
    tower.write_bytes(tower.read_bytes()[:-1])
    flags = ("--checkpoint-every", "1", "--epochs", "4", "--keep", keep)
    assert train(tiny_store, run, *flags, "--max-steps", "11") == 0
    text = capsys.readouterr().out
    assert "step-00000012 is damaged" in text
    assert "continuing from step 9" in text
    assert (run / "checkpoints" / "set-aside-001" / "step-00000012").exists()
    assert marker(run, "latest") == 11
    assert checkpoint.check(run / "checkpoints" / "step-00000011") is None


def test_folders_that_a_user_named_are_neither_taken_nor_removed(run, tiny_store, capsys):
    folder = run / "checkpoints"
    for name in ("step-good", "step-00000012-copy", "step-99"):
        shutil.copytree(folder / "step-00000003", folder / name)
    (folder / "latest").unlink()
    flags = ("--checkpoint-every", "1", "--epochs", "4", "--keep", "1")
    assert train(tiny_store, run, *flags, "--max-steps", "14") == 0
    assert "continuing from step 12" in capsys.readouterr().out
    for name in ("step-good", "step-00000012-copy", "step-99"):
        assert checkpoint.check(folder / name) is None


def test_resuming_from_what_is_no_checkpoint_changes_nothing(run, tiny_store, capsys):
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert train(tiny_store, run, *EVERY_3, "--resume", str(run / "checkpoints" / "step-00000005")) == 1
    assert "it does not exist" in capsys.readouterr().err
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
    with pytest.raises(UserError, match="not a checkpoint within a run"):
        checkpoint.run_of(run / "metrics.jsonl")
