"""No fresh memory in a step after the first ones, in large pages: what is freed stays for the next tensor."""

from __future__ import annotations

import ctypes
import resource

# From malloc.h of the GNU C library, and Linux's mman.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
MADV_HUGEPAGE = 14
NEVER = -1  # bytes; without a sign no number is larger

LARGE_PAGE = 2**21  # bytes, on x86-64 and mostly on ARM
ROOM = 2**33  # bytes of addresses; those that nothing touches take no memory


def configure_malloc() -> bool:
    """Have malloc keep freed memory in this process; False where the C library has no such switch.

    By default large tensors are mapped anew each time, and the kernel fills them with zeros page by page:
    90,000 page faults in a step of 32 pictures, and a fifth of its time.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (AttributeError, OSError):
        return False
    # One arena: those that threads would have of their own give memory back, in small pages.
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER, M_ARENA_MAX: 1}
    kept = all(mallopt(what, value) for what, value in settings.items())
    if kept:
        _ask_for_large_pages(libc)
    return kept


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Have malloc own addresses that it will hand out, and Linux back them with large pages.

    In pages of 4 KiB a tensor has more of them than a processor keeps in mind, which costs 5 % of a step.
    """
    limits = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    if any(limit != resource.RLIM_INFINITY for limit in limits):
        return  # addresses count here, touched or not
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if begin := libc.malloc(ROOM):  # not where the kernel promises no more than it has
        first = -(-begin // LARGE_PAGE) * LARGE_PAGE
        libc.madvise(first, begin + ROOM - first, MADV_HUGEPAGE)
        libc.free(begin)
