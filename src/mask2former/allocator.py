"""The C library's memory: large pages, kept from one pass to the next."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_MADV_HUGEPAGE = 14  # of mman.h
BLOCK = 1 << 30  # bytes; what malloc takes from the heap at once, below the threshold for maps
BLOCKS = 8  # at most


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let glibc serve tensors from a heap of large pages, and keep what is freed for the next.

    By default each large tensor is mapped afresh and its pages of 4 kB are faulted in one by one;
    in a training step on a CPU that took a quarter of the time. And a map has more such pages than
    a processor remembers the places of: with pages of 2 MB a forward pass takes a sixth less time.

    It holds for the whole process, for up to 8 GB; `malloc_trim(0)` of the C library gives back
    what is free. Elsewhere than with glibc on Linux this does nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**26)
    _enlarge_pages(libc)


def _enlarge_pages(libc: ctypes.CDLL) -> None:
    """Have a free part of the heap, as large as half the memory, in large pages once it is used.

    Until then it is addresses alone. Where the system knows no large pages, or does not grant as
    many addresses, all goes on as it did.
    """
    if not _addresses_are_free():
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    blocks = [libc.malloc(BLOCK) for _ in range(min(memory // (2 * BLOCK), BLOCKS))]
    granted = [block for block in blocks if block]
    if not granted:
        return
    page = os.sysconf("SC_PAGE_SIZE")
    start, end = -(-min(granted) // page) * page, (max(granted) + BLOCK) // page * page
    libc.madvise(start, end - start, _MADV_HUGEPAGE)
    # What lies at the end of the heap would be given back once it is free; so this lies there.
    libc.malloc(BLOCK // 8)
    for block in granted:
        libc.free(block)


def _addresses_are_free() -> bool:
    """Whether addresses that nothing is written to are neither counted nor limited."""
    import resource  # Unix alone has it

    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    try:
        strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        strict = False
    return not limited and not strict
