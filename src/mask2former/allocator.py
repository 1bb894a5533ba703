"""The C library's memory: large pages, kept from one pass to the next."""

from __future__ import annotations

import ctypes
import os
import sys
from itertools import pairwise
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_MADV_HUGEPAGE = 14  # of mman.h
BLOCK = 1 << 30  # bytes; what malloc takes from the heap at once, below the threshold for maps
BLOCKS = 8  # at most
PIN = BLOCK // 8
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of a container, in either version

_enlarged = False


def keep_freed_memory() -> None:
    """Let glibc serve tensors from a heap of large pages, and keep what is freed for the next.

    By default each large tensor is mapped afresh and its pages of 4 kB are faulted in one by one;
    in a training step on a CPU that took a quarter of the time. And a map has more such pages than
    a processor remembers the places of: with pages of 2 MB a forward pass takes a sixth less time.

    It holds for the process, for up to 8 GB, and serves the main thread, for glibc gives others
    heaps of their own; it should be called there. `malloc_trim(0)` of the C library gives back what
    is free. Elsewhere than with glibc on Linux this does nothing.
    """
    global _enlarged
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return
    # Before 2.35 the threshold is at most 32 MB.
    taken = mallopt(_M_MMAP_THRESHOLD, 2**31 - 1) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    if not taken:
        return
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**26)
    if not _enlarged and _addresses_are_free():
        _enlarged = _enlarge_pages(libc)


def _enlarge_pages(libc: ctypes.CDLL) -> bool:
    """Have a free part of the heap, as large as half the memory, in large pages once it is used.

    Until then it is addresses alone. False where the blocks are not the heap's (another thread's,
    or another allocator's) or where the system grants none; then all goes on as it did.
    """
    address, size = ctypes.c_void_p, ctypes.c_size_t
    libc.malloc.restype, libc.malloc.argtypes = address, [size]
    libc.realloc.restype, libc.realloc.argtypes = address, [address, size]
    libc.sbrk.restype, libc.sbrk.argtypes = address, [ctypes.c_ssize_t]
    libc.free.argtypes = [address]
    libc.madvise.argtypes = [address, size, ctypes.c_int]
    before = libc.sbrk(0)
    asked = [libc.malloc(BLOCK) for _ in range(min(_memory() // (2 * BLOCK), BLOCKS))]
    blocks = sorted(block for block in asked if block)
    page = os.sysconf("SC_PAGE_SIZE")
    adjoin = all(b - a < BLOCK + page for a, b in pairwise(blocks))
    on_heap = len(blocks) > 1 and blocks[-1] + BLOCK <= libc.sbrk(0) and before != libc.sbrk(0)
    if on_heap and adjoin:
        start, end = -(-blocks[0] // page) * page, (blocks[-1] + BLOCK) // page * page
        libc.madvise(start, end - start, _MADV_HUGEPAGE)
        # What is free at the end of the heap would be given back, so a part of it stays taken.
        libc.realloc(blocks.pop(), PIN)
    for block in blocks:
        libc.free(block)
    return on_heap and adjoin


def _memory() -> int:
    """Bytes that the machine has, or the container."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in LIMITS:
        try:
            limit = Path("/sys/fs/cgroup", name).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            memory = min(memory, int(limit))
    return memory


def _addresses_are_free() -> bool:
    """Whether addresses that nothing is written to are neither counted nor limited."""
    import resource  # Unix alone has it

    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    limited = any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in limits)
    try:
        strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        strict = False
    return not limited and not strict
