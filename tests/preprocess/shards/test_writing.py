import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from preprocess.shards.checksums import crc32c_of
from preprocess.shards.direct_io import BUFFER, DIRECT
from preprocess.shards.writing import Written, write_large


def test_length_and_checksums_are_returned_and_no_other_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    # CRC-32C's own check value, from its definition (RFC 3720's polynomial)
    assert write_large(path, [b"12345", b"6789"]) == Written(9, sha256(b"123456789").hexdigest(), "e3069283")
    assert path.read_bytes() == b"123456789"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [BUFFER],
        [BUFFER - 1, 1, 1],
        [1, 3 * BUFFER],
        [196_612] * 23,  # images with their checksums
        [BUFFER + 4096] * 3,
    ],
)
def test_pieces_of_any_size_are_written_one_after_the_other(sizes: list[int], tmp_path: Path) -> None:
    pieces = [os.urandom(size) for size in sizes]
    content = b"".join(pieces)
    written = write_large(tmp_path / "a", pieces)
    assert (tmp_path / "a").read_bytes() == content
    assert (written.bytes, written.sha256) == (len(content), sha256(content).hexdigest())
    assert written.crc32c == crc32c_of(tmp_path / "a")


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(3 * BUFFER)
        raise ValueError("no image")

    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="no image"):
        write_large(path, pieces())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_writing_thread_is_raised(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * BUFFER, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            write_large(tmp_path / "a", [bytes(BUFFER)] * 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not DIRECT, reason="this system has no direct I/O")
def test_a_file_system_that_refuses_direct_io_is_written_without_it(tmp_path, monkeypatch) -> None:
    refused, write = [], os.write

    def refuse_direct_io(handle: int, content: memoryview) -> int:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & DIRECT:
            refused.append(len(content))
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(handle, content)

    monkeypatch.setattr(os, "write", refuse_direct_io)
    pieces = [os.urandom(BUFFER) for _ in range(3)]
    write_large(tmp_path / "a", [*pieces, b"end"])
    assert (tmp_path / "a").read_bytes() == b"".join(pieces) + b"end"
    assert len(refused) <= 1  # 0 where this file system refuses direct I/O at the switch
