"""The list of a folder's files: its order, links that lead in circles, and entries without access."""

import errno
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from preprocess.pictures.images import SUFFIXES
from preprocess.shared.image_files import hidden_part, is_image_name, walk


def test_images_are_known_by_the_suffixes_of_the_formats_that_are_read() -> None:
    for suffix in set().union(*SUFFIXES.values()):
        assert is_image_name(f"a{suffix}")
        assert is_image_name(f"a{suffix.upper()}")
    assert not any(is_image_name(name) for name in ("a.avif", "a", "jpg", "a.jpg.txt", "a.jpg/"))


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("a/b.jpg", ""),
        ("./a/./b.jpg", ""),
        ("../b.jpg", ""),
        ("a/.b.jpg", "a/.b.jpg"),
        ("./a/.b/c/.d", "a/.b"),
        ("a/@eaDir/b.jpg", "a/@eaDir"),
        ("THUMBS.DB", "THUMBS.DB"),
        ("a/...", "a/..."),
        ("thumbs.db.jpg", ""),
    ],
)
def test_a_name_is_hidden_by_its_first_hidden_part(name: str, hidden: str) -> None:
    assert hidden_part(name) == hidden


def test_files_come_sorted_and_hidden_folders_are_not_entered(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/1.jpg", "a.jpg", "c/d/e.jpg", ".f/g.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"abc")
    assert [name for name, _, _ in walk(tmp_path)] == [
        *(".f", "a.jpg", "b/", "c/"),
        *("b/1.jpg", "b/2.jpg", "c/d/", "c/d/e.jpg"),
    ]
    assert [name for name, _, _ in walk(tmp_path, lambda name: name == "c/")] == [
        *(".f", "a.jpg", "b/", "c/"),
        "c/d/",
    ]
    assert {length for name, length, _ in walk(tmp_path) if name.endswith(".jpg")} == {3}


def test_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for one, other in ("ab", "ba"):
        (tmp_path / one).mkdir()
        (tmp_path / one / "link").symlink_to(tmp_path / other)
    names = {name: strange for name, _, strange in walk(tmp_path)}
    circle = "a link to a folder that contains it"
    assert names == {
        **dict.fromkeys(("a/", "b/", "a/link/", "b/link/"), ""),
        **dict.fromkeys(("a/link/link", "b/link/link"), circle),
    }


def test_folders_may_have_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.shared.image_files._identity", lambda _: (0, 0))
    (tmp_path / "a/b").mkdir(parents=True)
    assert [name for name, _, _ in walk(tmp_path)] == ["a/", "a/b/"]


def test_folders_may_be_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("a", dir_fd=handle)
        inner = os.open("a", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    try:
        assert sum(1 for _ in walk(tmp_path)) == 1500
    finally:
        subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # shutil.rmtree recurses


def test_an_entry_without_access_is_left_to_its_reader_if_it_is_named_as_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root has access to all files, so the entries are made up."""

    class Entries(list):
        def __enter__(self) -> "Entries":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def no_access() -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", "cat")

    def scandir(_: Path) -> Entries:
        return Entries([SimpleNamespace(name=name, stat=no_access, is_symlink=lambda: True)])

    monkeypatch.setattr(os, "scandir", scandir)
    name = "1.jpg"
    assert list(walk(tmp_path)) == [("1.jpg", 0, "")]
    name = "cat"
    with pytest.raises(PermissionError):
        list(walk(tmp_path))
