"""Tars that are compressed with gzip: read at random, and refused where they are damaged or hostile."""

import gzip
import os
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocess.containers import gzip as module
from preprocess.containers.fetch import open_container
from preprocess.containers.gzip import Gzip, kept_path, load_index
from preprocess.containers.tar import members, nested_members
from preprocess.errors import UnreadableError, UserError
from preprocess.sources.cache import cached_members
from tests.preprocess.containers.test_fetch import open_files
from tests.preprocess.helpers import tar

CONTENTS = {
    f"train/cat/{number:03d}.jpg": np.random.default_rng(number).bytes(60_000 + number)
    for number in range(150)  # 9 MB: the index has a place in the middle
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tar that does not compress, as one of JPEGs."""
    return tar(tmp_path_factory.mktemp("plain") / "a.tar", CONTENTS).read_bytes()


@pytest.fixture(scope="module")
def packed(plain: bytes) -> bytes:
    return gzip.compress(plain, 1)


@pytest.fixture
def archive(packed: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(packed)
    return path


def test_members_are_read_in_any_order(archive: Path, tmp_path: Path) -> None:
    entries = {entry.name: entry for entry in members(archive, tmp_path)}
    with tarfile.open(archive) as real:
        assert [(e.name, e.offset, e.length) for e in entries.values()] == [
            (member.name, member.offset_data, member.size) for member in real
        ]
    container = open_container(archive, tmp_path)
    assert isinstance(container, Gzip)
    for name in sorted(CONTENTS, key=lambda name: name[::-1]):
        _, offset, length, *_ = entries[name]
        assert container.request(name, offset, length).read() == CONTENTS[name]
    container.close()


def test_tars_in_a_compressed_tar_are_listed(tmp_path: Path) -> None:
    inner = {f"{wnid}.tar": tar(tmp_path / "x.tar", {f"{wnid}_1.JPEG": b"a" * 700}) for wnid in ("n2", "n1")}
    outer = {name: path.read_bytes() for name, path in inner.items()}
    compressed = tar(tmp_path / "a.tar.gz", outer, "w:gz")
    plain = tar(tmp_path / "a.tar", outer)
    assert list(nested_members(compressed)) == list(nested_members(plain))


def several_members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[begin : begin + 10**6], 1) for begin in range(0, len(data), 10**6))


def test_a_file_of_several_gzip_members_is_read(plain: bytes, archive: Path) -> None:
    before = list(members(archive))
    archive.write_bytes(several_members(plain))
    assert list(members(archive)) == before


def flipped(place: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        at = place % len(data)
        return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]

    return flip


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"<html>" * 100,
        lambda data: data[: len(data) // 2],
        lambda data: data[:-3],
        lambda data: data[:2],
        flipped(3_000_000),
        flipped(-7),  # of the CRC-32
        flipped(-2),  # of the length
        lambda data: several_members(gzip.decompress(data))[:-9],
    ],
    ids=["garbage behind", "half", "no end", "a start", "a bit", "CRC-32", "length", "last member cut off"],
)
def test_a_damaged_stream_is_refused_before_any_image_is_read(
    spoil: Callable[[bytes], bytes], archive: Path, tmp_path: Path
) -> None:
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(UserError, match=r"damaged|cut off"):
        list(members(archive, tmp_path))
    assert load_index(archive, tmp_path) is None


def test_a_stream_that_lacks_its_end_behind_the_last_member_is_refused(plain: bytes, archive: Path) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    archive.write_bytes(packer.compress(plain) + packer.flush(zlib.Z_FULL_FLUSH))  # all data, no CRC-32
    with pytest.raises(UserError, match="damaged, cut off"):
        list(members(archive))


def test_a_bomb_is_refused_with_bounded_memory_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALWAYS_ALLOWED", 2**24)
    path = tmp_path / "a.tar.gz"
    header = tarfile.TarInfo("train/cat/1.jpg")
    header.size = 2**40
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        file.write(packer.compress(header.tobuf()))
        for _ in range(20):
            file.write(packer.compress(bytes(2**23)))
        file.write(packer.flush())
    with pytest.raises(UserError, match="expands more than 100 times, as no tar of images does"):
        list(members(path, tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_size_beyond_the_stream_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("train/cat/1.jpg")
    header.size = 2**62
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf() + bytes(2048)))
    with pytest.raises(UserError, match="damaged or cut off"):
        list(members(path))


@pytest.mark.parametrize("harm", ["missing", "damaged", "of another archive"])
def test_an_index_that_does_not_fit_is_made_again(
    harm: str, plain: bytes, archive: Path, tmp_path: Path
) -> None:
    first = cached_members(archive, tmp_path, members)
    index = kept_path(tmp_path, archive, module.SUFFIX)
    if harm == "missing":
        index.unlink()
    elif harm == "damaged":
        index.write_bytes(flipped(-400)(index.read_bytes()))
    else:
        archive.write_bytes(gzip.compress(plain, 9))
        os.utime(archive, ns=(1, 1))
    assert load_index(archive, tmp_path) is None
    name, offset, length, *_ = first[100]
    container = Gzip(archive, tmp_path)
    assert container.request(name, offset, length).read() == CONTENTS[name]
    container.close()
    assert load_index(archive, tmp_path) is not None
    index.unlink()
    assert cached_members(archive, tmp_path, members) == first  # the list is made again with the index
    assert load_index(archive, tmp_path) is not None


def test_an_archive_of_the_same_name_in_another_folder_has_its_own_list(tmp_path: Path) -> None:
    for folder, name in (("a/train", "1.jpg"), ("b/train", "2.jpg")):
        (tmp_path / folder).mkdir(parents=True)
        os.utime(tar(tmp_path / folder / "0.tar", {name: b"x"}), ns=(1, 1))
    found = [cached_members(tmp_path / folder / "train/0.tar", tmp_path, members) for folder in "abab"]
    assert [entries[0].name for entries in found] == ["1.jpg", "2.jpg", "1.jpg", "2.jpg"]


def test_what_is_beyond_the_stream_or_longer_than_an_image_is_unreadable(
    archive: Path, tmp_path: Path
) -> None:
    container = Gzip(archive, tmp_path)
    for offset, length, why in (
        (10**8, 10, "shorter"),
        (9_000_000, 5 * 10**6, "shorter"),
        (0, 2**30, "more than"),
    ):
        with pytest.raises(UnreadableError, match=why):
            container.request("1.jpg", offset, length).read()
    container.close()


def test_many_archives_have_few_readers(tmp_path: Path) -> None:
    archives = []
    for number in range(5):
        path = tar(tmp_path / f"{number}.tar.gz", {"1.jpg": bytes([number]) * 9}, "w:gz")
        archives.append(Gzip(path, tmp_path))
    before = open_files()
    requests = [archive.request("1.jpg", 512, 9) for archive in archives]
    for _ in range(2):
        for number, request in enumerate(requests):
            assert request.read() == bytes([number]) * 9
            assert sum(archive._reader is not None for archive in archives) <= module.READERS
    for archive in archives:
        archive.close()
    assert open_files() == before


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rapidgzip", None)
    with pytest.raises(
        UserError, match=r'`pip install "two-tower-alexnet\[gzip\]"` or `pip install rapidgzip`'
    ):
        list(members(archive))


def test_names_that_climb_out_are_strange_in_a_compressed_tar(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", {"train/../../1.jpg": b"a", "train/cat/2.jpg": b"b"}, "w:gz")
    assert [entry.strange for entry in members(path)] == ["a name that climbs out", ""]
