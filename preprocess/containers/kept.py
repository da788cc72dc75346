"""What is kept of an archive in the store's hidden folder: how it is named, and whether it is still valid."""

import hashlib
from pathlib import Path


def kept_path(folder: Path, archive: Path, suffix: str) -> Path:
    """The file for what is kept of an archive. Archives of one name in two folders have two of them."""
    digest = hashlib.sha256(str(archive.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return folder / f"{archive.name[:200]}.{digest[:16]}{suffix}"


def stamp(archive: Path) -> list[int]:
    """The size and the time of the last change, by which a replaced archive is noticed. Raises OSError."""
    status = archive.stat()
    return [status.st_size, status.st_mtime_ns]
