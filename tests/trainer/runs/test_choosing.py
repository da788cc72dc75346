"""Which run a command without --run means."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damage import damaged
from trainer.config import Config, with_changes
from trainer.errors import UserError
from trainer.recipes import AUTO, PAPER
from trainer.runs import run_folder

STORE = "the store's fingerprint"


def make(name: str, config: Config = AUTO, *, store: str = STORE, complete: bool = False) -> Path:
    """A run's folder in runs/, with a checkpoint and a log."""
    run = Path("runs") / name
    run_folder.write_config(run, config, store)
    (run / "checkpoints" / "step-00000003").mkdir(parents=True)
    (run / "checkpoints" / "latest").write_text("step-00000003")
    (run / run_folder.LOG).touch()
    if complete:
        (run / run_folder.COMPLETE).touch()
    return run


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def chosen(config: Config = AUTO) -> str:
    return str(run_folder.choose(config, STORE))


def test_the_first_run_is_number_one():
    assert chosen() == "runs/auto-001"
    assert chosen(PAPER) == "runs/paper-001"


def test_the_newest_unfinished_run_of_the_same_settings_is_continued():
    make("auto-001")
    make("auto-002")
    make("auto-003", complete=True)
    make("auto-004", with_changes(AUTO, seed=5))
    make("auto-005", store="another")
    assert chosen() == "runs/auto-002"
    assert chosen(with_changes(AUTO, seed=5)) == "runs/auto-004"


def test_settings_that_no_unfinished_run_has_begin_a_new_one_after_the_last_number():
    make("auto-001", complete=True)
    make("auto-007")
    make("auto-of-mine", complete=True)
    make("paper-009", PAPER)
    assert chosen(with_changes(AUTO, dropout=0.3)) == "runs/auto-008"


def test_a_run_that_another_version_wrote_is_left_alone():
    (make("auto-001") / run_folder.CONFIG).write_text('{"config": {"nothing": 1}}')
    assert chosen() == "runs/auto-002"


CHANGE = {"step": 3, "changed": {"lr": [AUTO.optim.lr, 0.5]}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "config.json is not JSON"),
        (b"\xff", "config.json is not UTF-8 text"),
        (b"[]", "config.json is not an object"),
        (b"null", "config.json is not an object"),
        (b"{}", "config.json has no config"),
        (b'{"config": []}', "config.json has config = a list, which is not an object"),
        (b'{"config": {}, "store": 3}', "config.json has store = 3, which is not text"),
        (b'{"config": {}, "changes": {}}', "config.json has changes = an object, which is not a list"),
        (b'{"config": {"nothing": 1}}', "The configuration has an unknown key: nothing"),
        (b'{"config": {"optim": {"lr": -1}}}', "--lr must be above 0"),
    ],
)
def test_a_damaged_configuration_is_one_sentence_that_names_the_file(content, reason):
    path = make("auto-001") / run_folder.CONFIG
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} cannot be read as a run's configuration: {reason}"):
        run_folder.read_config(path.parent)
    assert chosen() == "runs/auto-002"


def test_a_folder_in_place_of_the_configuration_is_one_sentence():
    path = make("auto-001") / run_folder.CONFIG
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f"^{path} cannot be read .*: config.json is a folder, not a file"):
        run_folder.read_config(path.parent)


@pytest.mark.parametrize("changed", [{"other": [1, 2]}, {"lr": [1]}, {"lr": ["high", 0.5]}, {"lr": 3}])
def test_a_run_with_a_change_that_cannot_be_undone_is_passed_over(changed):
    later = with_changes(AUTO, lr=0.25)
    run = make("auto-001")
    run_folder.write_config(run, later, STORE, [CHANGE | {"changed": changed}])
    with pytest.raises(UserError, match=r"runs/auto-001/config\.json cannot be read"):
        run_folder.started_with(run)
    assert chosen() == "runs/auto-002"


same = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@same
@given(data=st.data())
def test_any_configuration_is_read_or_one_sentence(data):
    run = Path("runs/auto-001")
    run_folder.write_config(run, AUTO, STORE, [CHANGE])
    path = run / run_folder.CONFIG
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    for read in (run_folder.read_config, run_folder.record, run_folder.started_with):
        with contextlib.suppress(UserError):
            read(run)
    assert chosen() in ("runs/auto-001", "runs/auto-002")


def test_resume_never_begins_a_new_run():
    make("auto-001")
    assert chosen(with_changes(AUTO, resume="never")) == "runs/auto-002"


def test_resume_with_a_checkpoint_means_its_run():
    make("auto-001")
    run = make("auto-002", complete=True)
    assert chosen(with_changes(AUTO, resume=str(run / "checkpoints" / "step-00000003"))) == str(run)


def test_a_run_whose_settings_were_changed_later_is_found_by_both():
    later = with_changes(AUTO, lr=0.5)
    change = {"step": 3, "changed": {"lr": [AUTO.optim.lr, 0.5]}}
    run_folder.write_config(make("auto-001"), later, STORE, [change])
    assert chosen() == chosen(later) == "runs/auto-001"
    assert chosen(with_changes(AUTO, lr=0.25)) == "runs/auto-002"


def test_the_latest_run_is_the_one_whose_log_was_written_last():
    with pytest.raises(UserError, match="no run with a checkpoint in runs/; train first"):
        run_folder.latest()
    for name, seconds in (("auto-001", 2000), ("auto-002", 1000), ("auto-003", 3000)):
        os.utime(make(name) / run_folder.LOG, (seconds, seconds))
    for path in (Path("runs") / "auto-003" / "checkpoints").iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    assert run_folder.latest() == Path("runs/auto-001")
