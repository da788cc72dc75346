"""Which files are taken as images: one rule for folders and archives, and for both packages."""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

MAX_BYTES = 2**28  # of an image file; a longer one is not read
REMEDY = "convert it to JPEG or PNG"
RAW = "a camera's raw format"
FORMATS = {  # those that are read, by the suffixes of their names
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "HEIF": (".heic", ".heif"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
UNREADABLE = {  # suffixes of formats that are not read
    ".avif": "AVIF",
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx"), "JPEG 2000"),
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".svg": "SVG",
    ".psd": "PSD",
    ".ico": "ICO",
    ".exr": "OpenEXR",
    ".tga": "TGA",
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "PNM"),
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"), RAW),
}
HIDDEN = {  # what systems and programs put next to a user's files; in lower case
    *(
        "@eadir",
        "#recycle",
        "#snapshot",
        "__macosx",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    ),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
BROKEN = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}  # errors of a link without a target


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of an image. Its content is looked at later."""
    return name.lower().endswith(SUFFIXES)


def unreadable_format(format: str) -> str:
    """The reason why an image of a known format is left aside."""
    return f"{format}, which cannot be read"


def known_unreadable(name: str) -> str:
    """The format that is not read and that a file's name tells; "" for all other names."""
    return UNREADABLE.get(name[name.rfind(".") :].lower(), "")


def counted(formats: Mapping[str, int]) -> str:
    """Files of formats that are not read, as a clause: "... cannot be read: 3 AVIF, 2 SVG; ..."."""
    listed = ", ".join(f"{count} {format}" for format, count in sorted(formats.items()))
    return f"files in formats that cannot be read: {listed}; convert them to JPEG or PNG"


def parts_of(name: str) -> list[str]:
    """The folders and the file in a name: `./train/cat/1.jpg` has the parts train, cat, 1.jpg."""
    return [part for part in name.split("/") if part not in ("", ".")]


def hidden_part(name: str) -> str:
    """The name up to its first hidden part; "" where no part is hidden."""
    parts = parts_of(name)
    for number, part in enumerate(parts, start=1):
        if (part[0] == "." and part != "..") or part.lower() in HIDDEN:
            return "/".join(parts[:number])
    return ""


def walk(folder: Path, enter: Callable[[str], object] = bool) -> Iterator[tuple[str, int, str]]:
    """Yield the files and folders below a folder, sorted in each folder. Links are followed.

    Hidden folders are yielded and not entered.

    Args:
        folder: where to begin; the names start from it.
        enter: whether to enter a folder, by its name.

    Yields:
        The name, which ends with / for a folder; the length in bytes; and why it cannot be read, mostly "".

    Raises:
        OSError: a folder cannot be listed.
    """
    start = folder.resolve()
    todo = [("", frozenset(_identity(above.stat()) for above in (start, *start.parents)))]
    while todo:
        prefix, above = todo.pop()
        folders = []
        with os.scandir(folder / prefix) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            name = prefix + entry.name
            if hidden_part(entry.name):
                yield name, 0, ""
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if entry.is_symlink() and error.errno in BROKEN:
                    yield name, 0, "a broken link"
                elif is_image_name(name):
                    yield name, 0, ""  # whoever reads it gets the reason
                else:
                    raise
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield name, status.st_size, "" if stat.S_ISREG(status.st_mode) else "not a file"
            elif entry.is_symlink() and _identity(status) in above:  # some file systems number no folders
                yield name, 0, "a link to a folder that contains it"
            else:
                yield f"{name}/", 0, ""
                if enter(f"{name}/"):
                    folders.append((f"{name}/", above | {_identity(status)}))
        todo += reversed(folders)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
