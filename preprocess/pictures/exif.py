"""The orientation in an image's EXIF data, and whether the data are sound (Exif 2.32, TIFF 6.0)."""

import struct

HEADER = b"Exif\0\0"
ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
ORIENTATION, UPRIGHT = 0x0112, 1
BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # by type of value


def orientation(exif: bytes) -> int:
    """The orientation, 1 to 8; 1 (upright) where there is none. Raises ValueError for a damaged directory."""
    tiff = exif.removeprefix(HEADER)
    order = ORDERS.get(tiff[:4])
    if order is None:
        raise ValueError("no TIFF header")
    found = UPRIGHT
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", tiff, place)
            length = BYTES[kind] * number
            (offset,) = struct.unpack_from(order + "I", tiff, place + 8)
            if length > 4 and offset + length > len(tiff):
                raise ValueError("a value lies beyond the end")
            if tag == ORIENTATION:
                (found,) = struct.unpack_from(order + "H", tiff, place + 8)
    except (struct.error, KeyError) as error:
        raise ValueError(f"a damaged directory ({error})") from error
    return found
