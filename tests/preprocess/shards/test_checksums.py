from hashlib import sha256
from pathlib import Path

from preprocess.shards.checksums import crc32c_of, sha256_of


def test_checksums_are_those_of_the_standards(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"123456789")
    # CRC-32C's own check value, from its definition (RFC 3720's polynomial)
    assert (crc32c_of(path), sha256_of(path)) == ("e3069283", sha256(b"123456789").hexdigest())
