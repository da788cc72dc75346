"""Images in Parquet files are read in place, each row group once; damaged ones are unreadable."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocess.containers import parquet as module
from preprocess.containers.fetch import fetch
from preprocess.containers.parquet import Parquet, open_file, rows
from preprocess.errors import UnreadableError, UserError
from preprocess.sources.order import shuffled, whole_groups
from preprocess.sources.parquet import parquet_files
from preprocess.sources.tables import Source
from tests.preprocess.containers.test_fetch import NO_STORE, PLAN, open_files
from tests.preprocess.parquet_files import parquet

NOISE = np.random.default_rng(0)
CONTENTS = [NOISE.bytes(1000 + number) for number in range(10)]  # of row groups of 4, 4 and 2


def images(*contents: bytes | None) -> list[tuple[bytes | None, str | None, object]]:
    return [(content, f"{number}.jpg", 0) for number, content in enumerate(contents)]


def read_all(source: Source, wanted: np.ndarray | None = None) -> list[bytes | str]:
    """The bytes of images in the order of these rows of the training table, or why one is unreadable."""
    found: list[bytes | str] = []
    plan = replace(PLAN, source=str(source.root), archives=source.archives)
    for requested in fetch(NO_STORE, plan, source.train if wanted is None else wanted):
        try:
            found.append(requested.read())
        except UnreadableError as error:
            found.append(str(error))
    return found


@pytest.fixture
def read_groups(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[Path, int]]:
    """Counts how often each row group of a file is read."""
    counted: Counter[tuple[Path, int]] = Counter()
    real = Parquet._read_group

    def counting(self: Parquet, number: int) -> Iterator[pa.Array | str]:
        counted[Path(str(self._raw.name)), number] += 1
        return real(self, number)

    monkeypatch.setattr(Parquet, "_read_group", counting)
    return counted


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("plain", [False, True], ids=["with a dictionary", "plain"])
def test_images_have_the_bytes_that_were_written(compression: str, plain: bool, tmp_path: Path) -> None:
    options = {"compression": compression, "use_dictionary": not plain}
    before = open_files()
    source = parquet_files(parquet(tmp_path / "a.parquet", images(*CONTENTS), **options))
    assert read_all(source) == CONTENTS
    assert open_files() == before


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
def test_images_that_repeat_and_empty_ones_are_read_too(kind: pa.DataType, tmp_path: Path) -> None:
    contents = [b"same", b"", b"same", b"other", b"same", b""]
    column = pa.struct({"bytes": kind, "path": pa.string()})
    source = parquet_files(parquet(tmp_path / "a.parquet", images(*contents), image=column))
    assert read_all(source) == contents


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    source = parquet_files(parquet(tmp_path / "a.parquet", images(*CONTENTS)))
    order = [9, 3, 3, 0, 8, 1, 2, 7, 5, 6, 4, 0]
    assert read_all(source, source.train[order]) == [CONTENTS[number] for number in order]


def test_each_row_group_is_read_once_by_shards_of_whole_groups(
    tmp_path: Path, read_groups: Counter[tuple[Path, int]]
) -> None:
    for part in range(3):
        parquet(tmp_path / f"train-{part}.parquet", images(*(NOISE.bytes(50 + n) for n in range(4 * 6 + 3))))
    source = parquet_files(tmp_path)
    order = shuffled(source.train, np.random.default_rng(1))
    length = whole_groups(order, 10)
    assert length == 8  # two groups of 4
    for begin in range(0, len(order), length):
        read_all(source, order[begin : begin + length])
    usual = {(tmp_path / f"train-{part}.parquet", group): 1 for part in range(3) for group in range(6)}
    assert {place: count for place, count in read_groups.items() if place[1] < 6} == usual
    last = [read_groups[tmp_path / f"train-{part}.parquet", 6] for part in range(3)]  # groups of 3
    assert sorted(last) == [1, 1, 2]  # in shards of 8 the third one is divided


def test_a_row_group_stays_in_memory_only_while_its_images_are_requested(tmp_path: Path) -> None:
    file = Parquet(parquet(tmp_path / "a.parquet", images(*(NOISE.bytes(2**20) for _ in range(4)))))
    before = pa.total_allocated_bytes()
    (length,) = {entry.length for entry in rows(tmp_path / "a.parquet")}
    requested = [file.request("", row, length) for row in range(3)]
    requested[0].read()
    assert pa.total_allocated_bytes() > before + 2**20
    requested[1].close()
    requested[1].close()
    requested[2].read()
    assert pa.total_allocated_bytes() == before


def test_a_damaged_row_group_makes_its_images_unreadable_and_no_others(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", images(*CONTENTS), write_page_checksum=True)
    source = parquet_files(path)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    whole = path.read_bytes()
    for place in (
        chunk.dictionary_page_offset + chunk.total_compressed_size // 2,
        chunk.dictionary_page_offset,
    ):
        path.write_bytes(whole[:place] + bytes(20) + whole[place + 20 :])  # an image, or the page's header
        found = read_all(source)
        assert found[:4] + found[8:] == CONTENTS[:4] + CONTENTS[8:]
        assert all(str(why).startswith("row group 1 cannot be read: ") for why in found[4:8])


def test_images_of_a_file_that_was_replaced_are_unreadable(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", images(*CONTENTS))
    source = parquet_files(path)
    parquet(path, images(*CONTENTS[:4], *CONTENTS[:2]))
    changed = "its row group is another one than when it was indexed"
    assert read_all(source) == [*CONTENTS[:4], *[changed] * 6]
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(UserError, match=r"a\.parquet is damaged"):
        read_all(source)


def test_images_that_are_null_or_too_long_are_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 3)
    source = parquet_files(parquet(tmp_path / "a.parquet", images(b"abc", None, b"abcd", b"")))
    assert read_all(source) == [b"abc", "its row has no bytes", "has 4 bytes, more than 3", b""]


def test_rows_are_listed_with_path_and_label(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    paths = ["1.jpg", "/home/a/2.jpg", r"C:\a\3.jpg", None, "", "a\nb.jpg", f"{'n' * 256}.jpg"]
    parquet(path, [(b"", name, label) for name, label in zip(paths, [7, 6, 5, None, 3, 2, -1], strict=True)])
    names = ["1.jpg/7", "2.jpg/6", "3.jpg/5", "/-1", "/3", "/2", "/-1"]
    assert [entry.name for entry in rows(path)] == names
    assert [entry.offset for entry in rows(path)] == [0, 0, 0, 0, 1, 1, 1]


def varint(number: int) -> bytes:
    """A whole number as the footers of Parquet files have it: zigzag, then 7 bits a byte."""
    number, found = 2 * number, bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def with_claim(path: Path, before: int, after: int) -> Path:
    """Replace a number in the footer of a file, wherever it is."""
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    assert varint(before) in footer
    footer = footer.replace(varint(before), varint(after))
    path.write_bytes(data[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return path


@pytest.mark.parametrize("claim", [2**60, 2**31, 30_000])
def test_false_claims_of_a_footer_are_refused(claim: int, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", images(*CONTENTS[:1] * 1999), row_group_size=1999)
    with pytest.raises(UserError, match=r"a\.parquet is damaged, or of a kind that cannot be read \("):
        list(rows(with_claim(path, 1999, claim)))
    path = parquet(tmp_path / "b.parquet", images(*CONTENTS))
    length = pq.ParquetFile(path).metadata.row_group(0).column(0).total_compressed_size
    with pytest.raises(UserError, match=r"b\.parquet is damaged, or of a kind that cannot be read \("):
        list(rows(with_claim(path, length, claim)))
    assert pa.default_memory_pool().max_memory() < 2**28


def test_paths_that_are_stored_once_and_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        [(b"", "a" * 2**20, 0)] * 9,
        compression="zstd",
        dictionary_pagesize_limit=2**30,
    )
    assert path.stat().st_size < 4000
    with pytest.raises(UserError, match=r"\(4 rows have 41943\d\d bytes of paths and labels\)"):
        list(rows(path))


def test_files_that_are_cut_off_encrypted_or_no_parquet_are_refused(tmp_path: Path) -> None:
    def refused(data: bytes, sentence: str) -> None:
        (tmp_path / "a.parquet").write_bytes(data)
        with pytest.raises(UserError, match=sentence):
            open_file(tmp_path / "a.parquet")

    data = parquet(tmp_path / "a.parquet", images(*CONTENTS)).read_bytes()
    refused(data[:-100], "is damaged, or of a kind that cannot be read")
    refused(b"", "is no Parquet file")
    refused(b"<html>404</html>", "is no Parquet file, it begins with b'<html>40': get it again")
    refused(b"PARE" + data[4:-4] + b"PARE", "is encrypted: write it again without encryption")
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`")


def test_a_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a.parquet", images(*CONTENTS))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        UserError, match=r'pip install "two-tower-alexnet\[parquet\]"` or `pip install pyarrow`'
    ):
        parquet_files(path)
