"""No fresh memory in a step after the first ones: what is freed is kept for the next tensor."""

from __future__ import annotations

import ctypes

# From malloc.h of the GNU C library.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1  # bytes; the largest that mallopt takes


def keep_freed() -> bool:
    """Have malloc keep freed memory in this process; False where the C library has no such switch.

    By default large tensors are mapped anew each time, and the kernel fills them with zeros page by page:
    90,000 page faults in a step of 32 pictures, and a fifth of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
