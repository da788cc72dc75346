"""A stage's log: where it cannot be written, the stage goes on; where it cannot be opened, it says so."""

import argparse
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


def test_a_full_disk_under_the_log_is_said_once_and_the_stage_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`/dev/full` opens for writing and answers every write with ENOSPC."""
    stage.run(argparse.Namespace(store=tmp_path, log=Path("/dev/full")), _logs_twice, writes=False)
    said = capsys.readouterr()
    assert said.out == "2 lines logged\n"
    assert said.err == "warning: no more lines in the log /dev/full: [Errno 28] No space left on device\n"


def test_a_log_in_a_folder_that_is_not_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "no" / "stage.log"
    with pytest.raises(SystemExit) as ended:
        stage.run(argparse.Namespace(store=tmp_path, log=log), _logs_twice, writes=False)
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: the log cannot be opened: [Errno 2] No such file or directory: '{log}'\n"
