"""Writes Parquet files as the package datasets does."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE, LABEL = pa.struct({"bytes": pa.binary(), "path": pa.string()}), pa.int64()


def parquet(
    path: Path,
    rows: list[tuple[bytes | None, str | None, object]],
    names: Sequence[str] = (),
    *,
    image: pa.DataType = IMAGE,
    label: pa.DataType = LABEL,
    columns: Sequence[str] = ("image", "label"),
    **options: object,
) -> Path:
    """Write images, paths and labels as the package datasets does, in row groups of four.

    Args:
        path: the file.
        rows: of it.
        names: of the classes.
        image: type of the column of images.
        label: type of the column of labels.
        columns: names of both.
        options: of pyarrow's `write_table`.
    """
    feature = {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    features = {columns[0]: {"_type": "Image"}, columns[1]: feature}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(list(zip(columns, (image, label), strict=True)), metadata)
    images = [{"bytes": data, "path": name} for data, name, _ in rows]
    filled = [[content] if pa.types.is_list(image) else content for content in images]
    content = [pa.array(filled, image), pa.array([row[2] for row in rows], label)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(content, schema=schema), path, **{"row_group_size": 4} | options)
    return path
