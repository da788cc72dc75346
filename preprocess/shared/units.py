"""Sizes and times in words. Imports the standard library alone: the doctor works where packages do not."""

SIZES = ("B", "kB", "MB", "GB", "TB", "PB")  # powers of 1000


def size(count: float) -> str:
    """Bytes with three significant digits: 0 B, 64 kB, 488 MB, 1.5 TB."""
    for unit in SIZES[:-1]:
        if count < 999.5:  # 999.5 would be rounded to 1000
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} {SIZES[-1]}"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that fit: 12 s, 14 min 03 s, 2 h 05 min, 3 d 4 h."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{h} h {m:02d} min"
    return f"{m} min {s:02d} s" if minutes else f"{s} s"
