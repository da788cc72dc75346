import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec

from preprocess.shards.layout import encode_shard


@pytest.mark.parametrize("count", [8, 5, 1], ids=["full", "last", "single"])
def test_a_shard_is_byte_for_byte_what_zarr_writes(count: int, tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    images[0] = 0  # zarr leaves zeros out unless told otherwise
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=images.shape,
        shards=(8, 12, 12, 3),
        chunks=(1, 12, 12, 3),
        dtype="uint8",
        compressors=[Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[:] = images
    ours = b"".join(encode_shard(images, 8))
    assert ours == (tmp_path / "a.zarr/c/0/0/0/0").read_bytes()
