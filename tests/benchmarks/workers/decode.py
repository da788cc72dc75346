"""Decode JPEGs to 256x256 pixels and do nothing else. Needs Pillow alone, so that any environment can run it.

python -I tests/benchmarks/workers/decode.py FOLDER    prints images a second as JSON
"""

import io
import json
import sys
import time
from pathlib import Path

from PIL import Image

SIDE = 256


def load(folder: Path) -> list[bytes]:
    """Read all files below a folder."""
    return [path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()]


def decode(data: bytes) -> Image.Image:
    """Decode; resize the shorter side to 256, bicubic; cut the central square."""
    image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG")).convert("RGB")
    scale = SIDE / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + SIDE, top + SIDE))


def main() -> None:
    files = load(Path(sys.argv[1]))
    for data in files[:16]:  # warm-up, not counted
        decode(data)
    begin = time.perf_counter()
    for data in files:
        decode(data)
    print(json.dumps({"figure": len(files) / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main()
