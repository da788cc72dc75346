import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from preprocess.files import alone, crc32c_of, remove_leftovers, replacing, sha256_of, write_atomically


def test_a_file_is_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    write_atomically(path, b"123456789")
    assert path.read_bytes() == b"123456789"
    # CRC-32C's own check value, from its definition (RFC 3720's polynomial)
    assert (crc32c_of(path), sha256_of(path)) == ("e3069283", sha256(b"123456789").hexdigest())
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


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "kept").touch()
    (tmp_path / "c" / ".0.x1y2.partial").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["kept"]


def test_of_two_processes_one_waits_for_the_other(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from preprocess.files import alone\n"
        "with alone(Path(sys.argv[1])): print('in')"
    )
    with alone(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == f"waiting for another run that is at work in {tmp_path}\n"
    assert other.communicate(timeout=30) == ("in\n", None)
