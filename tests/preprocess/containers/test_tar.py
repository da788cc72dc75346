"""Hostile and damaged tars: false sizes, links, names outside the folder. Nothing is extracted."""

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import pytest

from preprocess.containers.tar import LONGEST_HEADER, members, nested_members
from preprocess.errors import UserError
from preprocess.sources.recognise import recognise
from tests.preprocess.helpers import tar
from tests.preprocess.sources.test_sources import bytes_of


def header(name: str, kind: bytes, link: str = "") -> bytes:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made.tobuf()


def sized(name: str, field: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that claims a size, given as the twelve bytes of its field."""
    made = bytearray(header(name, kind))
    made[124:136] = field
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


END = bytes(1024)
ZSTD = bytes.fromhex("28b52ffd")  # RFC 8878, section 3.1.1


def test_names_outside_the_folder_links_and_devices_are_ignored_with_a_reason(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar", {"train/cat/1.jpg": b"a", "train/../../2.jpg": b"b", "/train/cat/3.jpg": b"c"}
    )
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    strange = (
        header("train/cat/4.jpg", tarfile.SYMTYPE, str(secret))
        + header("train/cat/5.jpg", tarfile.LNKTYPE, "../../../secret.jpg")
        + header("train/cat/6.jpg", tarfile.CHRTYPE)
        + header("train/cat/7.jpg", tarfile.FIFOTYPE)
        + header("train/dog", tarfile.DIRTYPE)
    )
    whole = path.read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    path.write_bytes(whole + strange + END)
    before = {found: found.stat().st_mtime_ns for found in tmp_path.rglob("*")}
    source = recognise(path)
    assert bytes_of(source, "train") == {"train/cat/1.jpg": (0, b"a")}
    assert source.ignored == (
        "train/../../2.jpg (a name that climbs out)",
        "/train/cat/3.jpg (an absolute name)",
        "train/cat/4.jpg (a link)",
        "train/cat/5.jpg (a link)",
        "train/cat/6.jpg (a device)",
        "train/cat/7.jpg (a device)",
    )
    assert {found: found.stat().st_mtime_ns for found in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("field", "claim"),
    [
        (b"77777777777\0", "8589934591"),
        (b"\x80" + b"\0" * 3 + b"\x7f" * 8, "9187201950435737471"),
        (b"\xff" * 11 + b"\x00", "-256"),  # a tar reader that believes it goes in circles
    ],
    ids=["too long", "far too long", "negative"],
)
def test_a_size_beyond_the_archive_is_named_with_its_member(field: bytes, claim: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(sized("train/cat/1.jpg", field) + b"x" * 512 + END)
    with pytest.raises(UserError, match=f"its member train/cat/1.jpg at byte 0 claims {claim} bytes"):
        recognise(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE], ids=["long name", "attributes"])
def test_a_header_that_claims_gigabytes_is_not_read_into_memory(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(header("train/cat/0.jpg", tarfile.REGTYPE) + sized("long", b"40000000000\0", kind))
        file.truncate(2**33)  # a hole: the archive does reach that far
    with pytest.raises(UserError, match="damaged or cut off at byte"):
        recognise(path)


def test_a_member_may_not_reach_beyond_its_inner_tar(tmp_path: Path) -> None:
    inner = sized("n1_1.JPEG", b"00000004000\0") + b"x" * 512 + END
    outer = tar(tmp_path / "train.tar", {"n1.tar": inner, "n2.tar": bytes(8192)})
    with pytest.raises(
        UserError, match=r"its member n1_1\.JPEG at byte 512 claims 2048 bytes, and 1536 are left"
    ):
        list(nested_members(outer))


def test_a_name_longer_than_any_path_is_ignored_and_shortened(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("train/cat/1.jpg", "train/cat/" + "x" * 100_000 + ".jpg"):
            archive.addfile(tarfile.TarInfo(name))
    path = tmp_path / "a.tar"
    path.write_bytes(buffer.getvalue())
    source = recognise(path)
    assert source.train["name"].tolist() == [b"train/cat/1.jpg"]
    assert len(source.ignored) == 1
    assert len(source.ignored[0]) < 100
    assert source.ignored[0].endswith("(a name that no image has)")


def test_a_truncated_or_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"train/cat/{number}.jpg": b"a" * 600 for number in range(3)})
    whole = path.read_bytes()
    for end in (0, 100, 512, 1000, 1536, 1700, 3 * 1536):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"damaged or cut off|no tar archive"):
            recognise(path)
    path.write_bytes(whole[:1536] + b"x" * 512 + whole[2048:])  # a header overwritten
    with pytest.raises(UserError, match="damaged or cut off at byte 1536"):
        recognise(path)


@pytest.mark.parametrize("kind", [b"S", b"Z", tarfile.BLKTYPE], ids=["sparse", "unknown", "disk"])
def test_what_is_no_plain_file_is_ignored_with_a_reason(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header("train/cat/1.jpg", tarfile.REGTYPE) + header("train/cat/2.jpg", kind) + END)
    reason = "a device" if kind == tarfile.BLKTYPE else "no plain file"
    assert recognise(path).ignored == (f"train/cat/2.jpg ({reason})",)


def named(path: Path, *names: str) -> Path:
    """A tar of empty files; tarfile writes names that a header cannot hold as attributes before it."""
    with tarfile.open(path, "w") as archive:
        for name in names:
            made = tarfile.TarInfo("x")
            made.pax_headers = {"path": name}
            archive.addfile(made)
    return path


def test_names_have_at_most_1024_characters_and_no_line_ends_or_zeros(tmp_path: Path) -> None:
    longest = f"train/cat/{'x' * 1010}.jpg"
    assert len(longest) == 1024
    wrong = f"train/cat/{'x' * 1011}.jpg", "train/cat/a\nb.jpg", "train/cat/a\0b.jpg"
    found = {entry.name: entry.strange for entry in members(named(tmp_path / "a.tar", longest, *wrong))}
    assert found.pop(longest) == ""
    assert found == {
        f"'train/cat/{'x' * 30}'": "a name that no image has",  # the first 40 characters
        "'train/cat/a\\nb.jpg'": "a name that no image has",
        "'train/cat/a\\x00b.jpg'": "a name that no image has",
    }


def test_a_header_may_have_a_megabyte_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for size in (0, 2**20):
        long_name = sized("long", b"%011o\0" % size, tarfile.GNUTYPE_LONGNAME) + b"x" * size
        path.write_bytes(long_name + header("train/cat/1.jpg", tarfile.REGTYPE) + END)
        assert len(list(members(path))) == 1
    assert LONGEST_HEADER == 2**20
    more = sized("long", b"%011o\0" % (2**20 + 1), tarfile.GNUTYPE_LONGNAME) + b"x" * (2**20 + 512)
    first, last = (header(f"train/cat/{number}.jpg", tarfile.REGTYPE) for number in (1, 2))
    path.write_bytes(first + more + last + END)
    with pytest.raises(UserError, match="damaged or cut off at byte 1024"):
        list(members(path))


def test_a_size_of_minus_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(sized("train/cat/1.jpg", b"\xff" * 12) + END)
    with pytest.raises(UserError, match="claims -1 bytes"):
        list(members(path))


def test_a_tar_ends_with_a_block_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    member = sized("train/cat/1.jpg", b"00000001000\0") + b"x" * 512  # 512 bytes in octal
    path.write_bytes(member + bytes(512))
    assert [(entry.name, entry.offset, entry.length) for entry in members(path)] == [
        ("train/cat/1.jpg", 512, 512)
    ]
    for end in (b"", bytes(511), bytes(511) + b"x", b"x" + bytes(1023)):
        path.write_bytes(member + end)
        with pytest.raises(UserError, match=r"a\.tar is damaged or cut off at byte 1024: get it again"):
            list(members(path))


def test_an_inner_tar_may_not_end_in_the_zeros_of_the_outer_one(tmp_path: Path) -> None:
    whole = header("n1_1.JPEG", tarfile.REGTYPE)
    assert len(list(nested_members(tar(tmp_path / "a.tar", {"n1.tar": whole + bytes(512)})))) == 1
    with pytest.raises(UserError, match="damaged or cut off at byte 1024"):
        list(nested_members(tar(tmp_path / "b.tar", {"n1.tar": whole})))


def test_a_file_that_is_no_tar_is_named_so_and_an_inner_one_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"<html>" * 1000)
    with pytest.raises(UserError, match=r"a\.tar is no tar archive"):
        list(members(path))
    # LZMA of before 2009 has no bytes at its start by which it could be named.
    path.write_bytes(lzma.compress(header("train/cat/1.jpg", tarfile.REGTYPE) + END, lzma.FORMAT_ALONE))
    with pytest.raises(UserError, match=r"a\.tar is no tar archive"):
        list(members(path))
    for inner in (b"<html>" * 1000, gzip.compress(header("n1_1.JPEG", tarfile.REGTYPE) + END)):
        with pytest.raises(UserError, match=r"b\.tar is damaged or cut off at byte 512: get it again"):
            list(nested_members(tar(tmp_path / "b.tar", {"n1.tar": inner})))


@pytest.mark.parametrize(
    ("start", "program"),
    [(bz2.compress(b""), "bzip2"), (lzma.compress(b""), "xz"), (ZSTD, "zstd")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_compressed_tar_is_refused_with_the_program_that_unpacks_it(
    start: bytes, program: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(start)
    with pytest.raises(UserError, match=rf"compressed with {program}, .*\(`{program} -dk a\.tar`\)"):
        list(members(path))


def test_members_of_the_outer_tar_that_are_no_tars_are_strange(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"README": b"a", "sub/n1.tar": header("1.JPEG", tarfile.REGTYPE) + END})
    path.write_bytes(header("n2.tar", tarfile.SYMTYPE, "n1.tar") + path.read_bytes())
    assert [(entry.name, entry.strange) for entry in nested_members(path)] == [
        ("n2.tar", "a link"),
        ("README", "not the tar of a class"),
        ("n1/1.JPEG", ""),
    ]
