"""Hostile and damaged tars: false sizes, links, names outside the folder. Nothing is extracted."""

import io
import tarfile
from pathlib import Path

import pytest

from preprocess.errors import UserError
from preprocess.sources.archives import nested_members
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
