"""A run's log: what is read of one that is damaged, that grows, or that is another one than before."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damage import damaged
from trainer.errors import UserError
from trainer.runs.log import LogReader, RunLog, having, read_log
from trainer.runs.summary import ending

GOOD = b'{"step": 1, "loss": 2.5, "epoch": 0.5, "lr": 0.1}\n'
LAST = b'{"step": 9}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.mark.parametrize(
    "bad",
    [
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"{}",
        b'{"loss": 1.0}',
        b'{"step": "3"}',
        b'{"step": 3.5}',
        b'{"step": true}',
        b'{"step": 3, "loss": NaN}',
        b'{"step": 3, "loss": -Infinity}',
        b'{"step": 3, "loss": 1e999}',
        b'{"step": 3, "loss": "2.5"}',
        b'{"step": 3, "val_top1_error": null}',
        b'{"step": 3, "time": []}',
        b'{"step": 3, "lo',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
    ids=lambda bad: repr(bad[:30]),
)
def test_a_bad_line_is_left_out_and_counted_and_the_others_are_read(bad: bytes, path: Path) -> None:
    path.write_bytes(GOOD + bad + b"\n" + LAST)
    reader = LogReader(path)
    assert reader.read() == (True, [json.loads(GOOD), {"step": 9}])
    assert reader.unreadable == 1
    assert read_log(path) == [json.loads(GOOD), {"step": 9}]
    log = RunLog(path, resume_step=5)  # a run is continued
    log.close()
    assert path.read_bytes() == GOOD
    path.write_bytes(GOOD + bad + b"\n" + bad + b"\n")
    assert "  2 lines of metrics.jsonl could not be read" in ending(path.parent, path, 9, 10, 100)


def test_a_log_that_is_a_folder_is_one_sentence(path: Path) -> None:
    path.mkdir()
    with pytest.raises(UserError, match=r"^The log .* cannot be read \(Is a directory\): .*\.$"):
        read_log(path)


def test_new_lines_are_read_once_and_half_a_line_waits_for_its_end(path: Path) -> None:
    reader = LogReader(path)
    assert reader.read() == (True, [])  # there is no file yet
    path.write_bytes(GOOD)
    assert reader.read() == (True, [json.loads(GOOD)])
    assert reader.read() == (False, [])
    for piece, steps in ((b'{"step"', []), (b": 9}", []), (b'\n{"st', [9]), (b'ep": 10}\n', [10])):
        with path.open("ab") as file:
            file.write(piece)
        assert reader.read() == (False, [{"step": step} for step in steps])
    assert reader.unreadable == 0


def test_a_last_line_without_its_end_is_read_where_the_log_is_read_once(path: Path) -> None:
    path.write_bytes(GOOD + LAST.rstrip())
    assert read_log(path) == [json.loads(GOOD), {"step": 9}]


@pytest.mark.parametrize("how", ["renamed over", "cut", "cut and longer", "removed"])
def test_a_log_that_is_another_one_is_read_from_its_beginning(how: str, path: Path) -> None:
    path.write_bytes(b"half\n" + GOOD * 3)
    reader = LogReader(path)
    reader.read()
    assert reader.unreadable == 1
    other = b'{"step": 0}\n' * (100 if how == "cut and longer" else 2)
    if how == "renamed over":
        (path.parent / "new").write_bytes(other)
        (path.parent / "new").rename(path)
    elif how == "removed":
        path.unlink()
        assert reader.read() == (True, [])
        path.write_bytes(other)
    else:
        inode = path.stat().st_ino
        path.write_bytes(other)
        assert path.stat().st_ino == inode
    assert reader.read() == (True, [{"step": 0}] * other.count(b"\n"))
    assert reader.unreadable == 0


def test_a_number_that_is_not_finite_is_left_out_of_the_line_that_is_written(path: Path) -> None:
    log = RunLog(path)
    log.write(step=1, loss=2.0, **{"gradient.fc6": float("inf"), "dead.fc6": float("nan")})
    log.close()
    (line,) = read_log(path)
    assert line == {"step": 1, "loss": 2.0, "time": line["time"]}


def test_lines_are_chosen_by_the_values_that_they_have() -> None:
    lines = [{"step": 1}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 1.0, "lr": 0.1}]
    assert [line["step"] for line in having(lines, "loss", "lr")] == [3]


@settings(
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=60,
)
@given(st.lists(damaged(GOOD), max_size=3))
def test_any_lines_are_read_or_counted(path: Path, texts: list[bytes]) -> None:
    path.write_bytes(GOOD + b"".join(text + b"\n" for text in texts) + LAST)
    reader = LogReader(path)
    _, lines = reader.read()
    assert lines[0] == json.loads(GOOD)
    assert lines[-1] == {"step": 9}
    ending(path.parent, path, 9, 10, 100)
    path.unlink()
