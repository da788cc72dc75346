"""A stage's log on a full disk or in a missing folder, and the lock of a store."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from preprocess import stage


def _logs_twice(arguments: argparse.Namespace) -> str:
    stage.log.info("one")
    stage.log.info("two")
    return "2 lines logged"


@pytest.fixture(autouse=True)
def _no_handler_stays() -> Iterator[None]:
    before = list(stage.log.handlers)
    yield
    for handler in set(stage.log.handlers) - set(before):
        stage.log.removeHandler(handler)
        with suppress(OSError):  # what /dev/full did not take
            handler.close()


def test_a_full_disk_under_the_log_is_reported_once_and_the_stage_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`/dev/full` opens for writing and answers every write with ENOSPC."""
    stage.run(argparse.Namespace(store=tmp_path, log=Path("/dev/full")), _logs_twice, writes=False)
    text = capsys.readouterr()
    assert text.out == "2 lines logged\n"
    assert text.err == "warning: no more lines in the log /dev/full: [Errno 28] No space left on device\n"


def test_a_log_that_cannot_be_opened_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "file" / "stage.log"
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        stage.run(argparse.Namespace(store=tmp_path, log=log), _logs_twice, writes=False)
    assert ended.value.code == 1
    text = capsys.readouterr()
    assert text.out == ""
    assert text.err == f"error: the log {log} cannot be opened: Not a directory\n"


def test_the_second_of_two_processes_waits_for_the_lock(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from preprocess.stage import locked\n"
        "with locked(Path(sys.argv[1])): print('in')"
    )
    with stage.locked(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == f"waiting for another process that writes to {tmp_path}\n"
    assert other.communicate(timeout=30) == ("in\n", None)
