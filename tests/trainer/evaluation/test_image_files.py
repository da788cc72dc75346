"""Image files for a trained network: found as in preprocessing, and decoded ahead of it."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.preprocess.helpers import draw
from trainer.errors import UserError
from trainer.evaluation import image_files


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no image"):
        image_files.find([tmp_path / "none.jpg"])
    with pytest.raises(UserError, match="There is no image in"):
        image_files.find([tmp_path])
    with pytest.raises(UserError, match="Name images or folders"):
        image_files.find([])


def test_the_images_of_a_folder_are_found_as_in_preprocessing(tmp_path, capsys):
    """Links are followed; what is hidden is counted, and links that lead nowhere are named."""
    folder = tmp_path / ".photos"  # hidden itself, but named by the user
    for name in (
        *("b.jpg", "a.PNG", "2024/c.jpeg", "notes.txt", "d.avif"),
        *(
            "._b.jpg",
            ".DS_Store",
            "Thumbs.db",
            ".trash/e.jpg",
            "2024/@eaDir/c.jpeg/thumb.jpg",
            "__MACOSX/f.jpg",
        ),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/g.jpg").write_bytes(b"")
    (folder / "linked").symlink_to(tmp_path / "more")
    (folder / "h.jpg").symlink_to(tmp_path / "more/g.jpg")
    (folder / "circle").symlink_to(folder)
    (folder / "broken.jpg").symlink_to("nothing")
    names = ["2024/c.jpeg", "a.PNG", "b.jpg", "h.jpg", "linked/g.jpg"]
    assert image_files.find([folder]) == [folder / name for name in names]
    assert capsys.readouterr().err.splitlines() == [
        f"note: {folder}/broken.jpg is left aside: a broken link",
        f"note: {folder}/circle is left aside: a link to a folder that contains it",
        f"note: {folder}: files in formats that cannot be read: 1 AVIF; convert them to JPEG or PNG",
        f"note: {folder}: hidden entries left aside: 6",
    ]
    assert image_files.find([folder / "._b.jpg"]) == [folder / "._b.jpg"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(
        UserError, match=rf"{tmp_path} cannot be listed \(Permission denied\): make it readable"
    ):
        image_files.find([tmp_path])


def test_what_is_no_regular_file_or_too_large_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(40 * 2**30)
    with (tmp_path / "largest.jpg").open("wb") as file:
        file.truncate(2**28 + 1)
    (tmp_path / "null.jpg").symlink_to("/dev/zero")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    names = ("pipe.jpg", "sparse.jpg", "largest.jpg", "null.jpg")
    found = [image_files.read(tmp_path / name, 256, upright=False) for name in names]
    assert [file.error for file in found] == [
        "is no regular file",
        "has 42,949,672,960 bytes, more than 268,435,456",
        "has 268,435,457 bytes, more than 268,435,456",
        "is no regular file",
    ]


def test_files_come_in_batches_in_their_order(tmp_path):
    for number in range(7):
        draw(number, 40, 30).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"")
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    found = list(image_files.batches(paths, 32, False, 3))
    assert [[file.path for file in files] for files in found] == [paths[:3], paths[3:6], paths[6:]]
    for file in (file for files in found for file in files):
        alone = image_files.read(file.path, 32, False)
        assert (file.error == "") == (file.path.name != "3.png")
        assert file.error == alone.error
        np.testing.assert_array_equal(file.image_SS3, alone.image_SS3)


def test_threads_work_ahead_and_not_further_than_they_are_told(monkeypatch):
    monkeypatch.setattr(image_files, "available_cores", lambda: 3)
    together, begun = threading.Barrier(3, timeout=60), []

    def slow(item):
        begun.append(item)
        if item < 3:
            together.wait()  # until three threads are here
        return -item

    results = image_files.map_ahead(slow, iter(range(1000)), ahead=5)
    for item in range(100):
        assert next(results) == -item
        assert len(begun) <= item + 6
    results.close()
    assert len(begun) < 110


def test_what_a_thread_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(image_files.map_ahead(lambda item: 1 // item, [1, 0, 1]))
