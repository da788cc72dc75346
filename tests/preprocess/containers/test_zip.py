"""Zips of other programs are read in place; hostile and damaged ones are refused, or their members listed."""

import io
import os
import shutil
import stat
import struct
import subprocess
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest

from preprocess.containers import zip as module
from preprocess.containers.fetch import open_container
from preprocess.containers.zip import zip_members
from preprocess.errors import UnreadableError, UserError

INFO_ZIP = shutil.which("zip")
FILES = {"train/cat/1.jpg": b"a" * 5000, "train/dog/2.jpg": bytes(range(256)) * 9, "train/dog/empty.jpg": b""}
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def written(path: Path, files: dict[str, bytes] = FILES, method: int = DEFLATED, zip64: bool = False) -> Path:
    """A zip by Python's zipfile."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=zip64) as member:
                member.write(data)
    return path


class Pipe(io.RawIOBase):
    """A file that cannot seek, so that lengths follow the data."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._file.write(data)  # type: ignore[arg-type]

    def close(self) -> None:
        self._file.close()
        super().close()


def read(archive: Path) -> dict[str, bytes | str]:
    """The content of each member; else why it is strange or unreadable."""
    container = open_container(archive, archive.parent)
    found: dict[str, bytes | str] = {}
    for entry in zip_members(archive):
        try:
            wanted = container.request(entry.name, entry.offset, entry.length)
            wanted.prefetch()
            found[entry.name] = entry.strange or wanted.read()
        except UnreadableError as error:
            found[entry.name] = str(error)
    container.close()
    return found


@pytest.mark.parametrize("method", [STORED, DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("form", ["plain", "zip64", "streamed", "streamed zip64", "comment", "appended"])
def test_members_are_read_as_pythons_zipfile_wrote_them(form: str, method: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    if form.startswith("streamed"):
        with Pipe(path) as pipe, zipfile.ZipFile(pipe, "w", method) as archive:
            for name, data in FILES.items():
                with archive.open(name, "w", force_zip64="64" in form) as member:
                    member.write(data)
    else:
        written(path, FILES, method, zip64=form == "zip64")
    if form == "comment":
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = b"PK\5\6 " * 20
    elif form == "appended":
        with zipfile.ZipFile(path, "a", method) as archive:
            archive.writestr("train/cat/3.jpg", b"later")
    assert read(path) == FILES | ({"train/cat/3.jpg": b"later"} if form == "appended" else {})


@pytest.mark.skipif(INFO_ZIP is None, reason="needs the program zip")
@pytest.mark.parametrize("flags", [("-r",), ("-r0",), ("-r", "-fz"), ("-r", "-")], ids=" ".join)
def test_members_are_read_as_info_zip_wrote_them(flags: tuple[str, ...], tmp_path: Path) -> None:
    files = {**FILES, "train/caf\u00e9/1.jpg": b"x" * 100}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    to_a_pipe = flags[-1] == "-"
    command = ["zip", "-q", *flags, *([] if to_a_pipe else ["a.zip"]), "train"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    if to_a_pipe:
        (tmp_path / "a.zip").write_bytes(done.stdout)
    assert read(tmp_path / "a.zip") == files


def test_more_members_than_16_bits_count_are_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(65_600):
            archive.writestr(zipfile.ZipInfo(str(number)), b"")
    assert [entry.name for entry in zip_members(tmp_path / "a.zip")] == list(map(str, range(65_600)))


def patched(path: Path, mark: bytes, at: int, data: bytes, number: int = 0) -> None:
    """Overwrite bytes from `at` on in the header number `number` with this mark."""
    whole = bytearray(path.read_bytes())
    place = -1
    for _ in range(number + 1):
        place = whole.index(mark, place + 1)
    whole[place + at : place + at + len(data)] = data
    path.write_bytes(whole)


CENTRAL = b"PK\1\2"  # its flags are at 8, its method at 10, lengths at 20 and 24, its place at 42
LOCAL = b"PK\3\4"  # its CRC-32 is at 14, its length at 22


@pytest.mark.parametrize(
    ("at", "data", "reason"),
    [
        (8, b"\1", "encrypted"),
        (10, b"\x0c", "compressed with bzip2, not with deflate"),
        (10, b"\x0e", "compressed with lzma, not with deflate"),
        (10, b"\x09", "compressed with deflate64, not with deflate"),
        (10, b"\x2a", "compressed with method 42, not with deflate"),
        (38, struct.pack("<L", (stat.S_IFLNK | 0o777) << 16), "a link"),
        (38, struct.pack("<L", (stat.S_IFIFO | 0o777) << 16), "no plain file"),
    ],
)
def test_a_member_that_cannot_be_read_is_strange(at: int, data: bytes, reason: str, tmp_path: Path) -> None:
    patched(written(tmp_path / "a.zip"), CENTRAL, at, data, number=1)
    assert read(tmp_path / "a.zip") == FILES | {"train/dog/2.jpg": reason}


def test_a_member_that_is_encrypted_or_of_bzip2_by_a_real_program_is_strange(tmp_path: Path) -> None:
    assert set(read(written(tmp_path / "a.zip", method=zipfile.ZIP_BZIP2)).values()) == {
        "compressed with bzip2, not with deflate"
    }
    if INFO_ZIP:
        (tmp_path / "1.jpg").write_bytes(b"a" * 100)
        subprocess.run(["zip", "-q", "-P", "secret", "b.zip", "1.jpg"], cwd=tmp_path, check=True)
        assert read(tmp_path / "b.zip") == {"1.jpg": "encrypted"}


def test_names_outside_the_folder_and_names_that_no_image_has_are_strange(tmp_path: Path) -> None:
    long = "x" * 1025
    path = written(tmp_path / "a.zip", {"../1.jpg": b"a", "/2.jpg": b"b", "a\nb.jpg": b"c", long: b"d"})
    assert read(path) == {
        "../1.jpg": "a name that climbs out",
        "/2.jpg": "an absolute name",
        "'a\\nb.jpg'": "a name that no image has",
        repr("x" * 40): "a name that no image has",
    }
    assert not (tmp_path.parent / "1.jpg").exists()


def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in (("a.jpg", b"first"), ("b.jpg", b"other"), ("a.jpg", b"last")):
            archive.writestr(name, data)
    entries = list(zip_members(tmp_path / "a.zip"))
    assert [entry.strange for entry in entries] == ["a later member has its name", "", ""]
    assert read(tmp_path / "a.zip") == {"a.jpg": b"last", "b.jpg": b"other"}


def test_names_of_old_programs_are_understood(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", {"train_cat_1.jpg": b"a", "caf_.jpg": b"b"})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"train_cat_1", rb"train\cat\1").replace(b"caf_", b"caf\x82"))
    for number in range(2):
        patched(path, CENTRAL, 5, b"\0", number)  # made on MS-DOS
    assert [entry.name for entry in zip_members(path)] == ["train/cat/1.jpg", "caf\u00e9.jpg"]


@pytest.mark.parametrize("method", [STORED, DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize(("at", "data"), [(14, b"\0\0\0\0"), (22, b"\1\0\0\0")], ids=["CRC-32", "length"])
def test_a_member_whose_sum_or_length_differs_is_unreadable(
    at: int, data: bytes, method: int, tmp_path: Path
) -> None:
    patched(written(tmp_path / "a.zip", method=method), LOCAL, at, data)
    wrong = "damaged: its CRC-32 or its length is not that in the zip"
    assert read(tmp_path / "a.zip") == FILES | {"train/cat/1.jpg": wrong}


@pytest.mark.parametrize("method", [STORED, DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("streamed", [False, True])
def test_any_changed_bit_of_the_data_is_noticed(streamed: bool, method: int, tmp_path: Path) -> None:
    data = os.urandom(40)
    path = tmp_path / "a.zip"
    with (
        Pipe(path) if streamed else path.open("wb") as file,
        zipfile.ZipFile(file, "w", method) as archive,
    ):
        archive.writestr("1.jpg", data)
    whole = path.read_bytes()
    begin = 30 + len("1.jpg") + struct.unpack_from("<H", whole, 28)[0]
    (entry,) = zip_members(path)
    for bit in range(entry.length * 8):
        changed = bytearray(whole)
        changed[begin + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        (found,) = read(path).values()
        assert isinstance(found, str) or (found == data and method == DEFLATED)  # of unused bits of deflate
        if isinstance(found, str):
            assert found.startswith("damaged: ")


def test_a_bomb_is_inflated_to_the_limit_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    path = written(tmp_path / "a.zip", {"bomb.jpg": bytes(10**6), "1.jpg": bytes(1000)})
    inflated = 0
    real = zlib.decompressobj

    class Counting:
        def __init__(self, bits: int) -> None:
            self._stream = real(bits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            nonlocal inflated
            out = self._stream.decompress(data, limit)
            inflated += len(out)
            return out

        @property
        def eof(self) -> bool:
            return self._stream.eof

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    assert read(path) == {"bomb.jpg": "has more than 1000 bytes", "1.jpg": bytes(1000)}
    assert inflated == 1001 + 1000


def test_a_member_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", method=STORED)
    container = open_container(path, tmp_path)
    for offset, length, reason in (
        (7, 10, "not where it was when it was indexed"),
        (0, 10**6, "shorter than when it was indexed"),
        (0, module.MAX_BYTES + 1, f"has {module.MAX_BYTES + 1} bytes, more than {module.MAX_BYTES}"),
        (path.stat().st_size, 10, "shorter than when it was indexed"),
    ):
        with pytest.raises(UnreadableError, match=reason):
            container.request("train/cat/1.jpg", offset, length).read()


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        list(zip_members(path))


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", {"1.jpg": b"a" * 100, "2.jpg": b"b" * 100}, STORED)
    second = path.read_bytes().index(LOCAL, 4)
    patched(path, CENTRAL, 42, struct.pack("<L", 1), number=1)
    refused(path, r"a\.zip is damaged: its members 1\.jpg and 2\.jpg overlap; get it again")
    patched(path, CENTRAL, 42, struct.pack("<L", second), number=1)
    patched(path, CENTRAL, 20, struct.pack("<L", second), number=0)  # the first is longer than its place
    refused(path, "overlap")


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"x"),
        (20, b"\xf0\xff\xff\x7f"),
        (42, b"\xf0\xff\xff\x7f"),
        (42, b"\xff\xff\xff\xff"),
        (28, b"\xff\xff"),
        (30, b"\xff\xff"),
        (32, b"\xff\xff"),
    ],
    ids=["mark", "length", "place", "no zip64", "name", "extra", "comment"],
)
@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_list_is_refused(at: int, data: bytes, number: int, tmp_path: Path) -> None:
    patched(written(tmp_path / "a.zip"), CENTRAL, at, data, number)
    refused(tmp_path / "a.zip", r"a\.zip (has a damaged list of members|lists \d members and claims 3)")


def test_a_wrong_number_of_members_is_refused(tmp_path: Path) -> None:
    patched(written(tmp_path / "a.zip"), b"PK\5\6", 8, struct.pack("<2H", 2, 2))
    refused(tmp_path / "a.zip", "lists 3 members and claims 2: get it again")


def test_a_zip_that_is_cut_off_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = written(tmp_path / "a.zip").read_bytes()
    for end in range(len(whole)):
        (tmp_path / "a.zip").write_bytes(whole[:end])
        refused(tmp_path / "a.zip", r"a\.zip is no zip archive, or is cut off: get it again")


def test_other_bytes_before_or_behind_a_zip_are_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(b"#!/bin/sh\n" + whole)
    refused(tmp_path / "a.zip", "has 10 other bytes before the zip: get it again, or unpack it and give the")
    (tmp_path / "a.zip").write_bytes(whole + b"x")
    refused(tmp_path / "a.zip", "has other bytes behind its end: get it again")
    (tmp_path / "a.zip").write_bytes(whole[100:])
    refused(tmp_path / "a.zip", "is cut off: get it again")
    (tmp_path / "a.zip").write_bytes(b"<html>")
    refused(tmp_path / "a.zip", "is no zip archive, or is cut off")


@pytest.mark.skipif(INFO_ZIP is None, reason="needs the program zip")
def test_a_zip_in_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(os.urandom(150_000))
    subprocess.run(["zip", "-q", "-s", "64k", "a.zip", "1.jpg"], cwd=tmp_path, check=True)
    refused(tmp_path / "a.zip", "is one of several parts: unpack them, and give the folder")
