import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from preprocess.shared.files import (
    remove_leftovers,
    remove_leftovers_of,
    replacing,
    write_atomically,
)


def test_a_file_is_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    write_atomically(path, b"123456789")
    assert path.read_bytes() == b"123456789"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    def replace() -> None:
        with replacing(path) as handle:
            os.write(handle, b"new")
            raise OSError("the disk is full")

    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"):
        replace()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def leftover_of(path: Path) -> Path:
    """Kill a process while it writes `path`; return the temporary file that it left."""
    program = (
        "import os, signal, sys; from pathlib import Path; from preprocess.shared.files import replacing\n"
        "with replacing(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    before = set(path.parent.glob(".*"))
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -signal.SIGKILL
    (left,) = set(path.parent.glob(".*")) - before
    return left


def test_the_file_that_a_killed_writer_left_is_removed_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "c" / ".step-00000003.partial").mkdir(parents=True)  # a checkpoint in the making
    left = leftover_of(tmp_path / "c" / "0")
    remove_leftovers(tmp_path)
    assert not left.exists()
    assert (tmp_path / "c" / ".step-00000003.partial").is_dir()


def test_the_leftovers_of_one_path_are_removed_and_no_other_ones(tmp_path: Path) -> None:
    removed, of_another = leftover_of(tmp_path / "latest"), leftover_of(tmp_path / "best")
    remove_leftovers_of(tmp_path / "latest")
    assert (removed.exists(), of_another.exists()) == (False, True)


def test_the_umask_decides_who_may_read_a_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
