"""malloc for training: freed memory is used again, in huge pages, so that steps cause no page faults."""

from __future__ import annotations

import ctypes
import resource

# From malloc.h of the GNU C library, and Linux's mman.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
MADV_HUGEPAGE = 14
NEVER = -1  # bytes, which malloc reads as the largest unsigned number

HUGE_PAGE = 2**21  # bytes, on x86-64 and mostly on ARM
ROOM = 2**33  # bytes of address space; pages that are never used take no memory


def configure_malloc() -> bool:
    """No mmap, no trim, one arena and huge pages; False where the C library has no such settings.

    By default malloc maps large tensors anew each time, and the kernel clears them page by page: 90,000 page
    faults in a step of 32 images, and a fifth of its time.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (AttributeError, OSError):
        return False
    # One arena: arenas of single threads return memory, and use small pages.
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER, M_ARENA_MAX: 1}
    kept = all(mallopt(what, value) for what, value in settings.items())
    if kept:
        _use_huge_pages(libc)
    return kept


def _use_huge_pages(libc: ctypes.CDLL) -> None:
    """Let malloc own address space that Linux backs with huge pages.

    A large tensor has more pages of 4 KiB than the processor's TLB has entries, which costs 5 % of a step.
    """
    limits = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    if any(limit != resource.RLIM_INFINITY for limit in limits):
        return  # the limit counts address space, used or not
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if begin := libc.malloc(ROOM):  # 0 where the kernel does not overcommit
        first = -(-begin // HUGE_PAGE) * HUGE_PAGE
        libc.madvise(first, begin + ROOM - first, MADV_HUGEPAGE)
        libc.free(begin)
