import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from preprocess.shared.disk import disk_failure
from preprocess.shared.files import (
    check_output,
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


def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/a")
    for content in (b"a file that was not there", b"another"):
        write_atomically(tmp_path / "link", content)
        assert (tmp_path / "link").readlink() == Path("disk/a")
        assert (tmp_path / "disk/a").read_bytes() == content
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["a"]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"123")
    assert os.read(reader, 10) == b"123"
    os.close(reader)
    assert pipe.is_fifo()
    check_output(pipe)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("to_file", [False, True])
def test_the_own_output_is_written_to_in_order_and_stays(to_file: bool, tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    program = (
        "import sys; from pathlib import Path\n"
        "from preprocess.shared.files import check_output, write_atomically\n"
        "check_output(Path(sys.argv[1])); print('before')\n"
        "write_atomically(Path(sys.argv[1]), b'written\\n'); print('after')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "stdout")]
    with (tmp_path / "out").open("wb") as file:
        done = subprocess.run(command, stdout=file if to_file else subprocess.PIPE, check=True)
    assert (done.stdout or (tmp_path / "out").read_bytes()) == b"before\nwritten\nafter\n"
    assert (tmp_path / "stdout").is_symlink()


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("a folder", IsADirectoryError),
        ("file/below", NotADirectoryError),
        ("loop", OSError),
        (f"{'x' * 300}", OSError),
    ],
)
def test_what_cannot_be_written_is_found_before_the_work(
    output: str, why: type[OSError], tmp_path: Path
) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(why) as raised:
        check_output(tmp_path / output)
    assert (disk_failure(raised.value, "it begins anew") or "").startswith(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_without_permission_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    program = (
        "import os, sys; from pathlib import Path; from preprocess.shared.files import check_output\n"
        "if os.getuid() == 0: os.chdir(sys.argv[1]); os.setuid(65534)\n"
        "try: check_output(Path('closed/a'))\n"
        "except PermissionError: print('refused')"
    )
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "refused\n", done.stderr


def test_missing_folders_are_no_error_before_the_work_and_nothing_is_left(tmp_path: Path) -> None:
    check_output(tmp_path / "new/folder/x.json")
    assert not list(tmp_path.iterdir())
    write_atomically(tmp_path / "new/folder/x.json", b"")
    assert (tmp_path / "new/folder/x.json").is_file()
