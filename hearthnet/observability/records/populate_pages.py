"""Makes the kernel populate pages of a mapping before they are written to.

The first write to a page of a mapped file is a page fault: the file system may wait for its journal, which our own
commits keep busy. It costs the caller some ten microseconds, now and then milliseconds. Here another thread takes the
fault, without the interpreter's lock.

Source: madvise(2), MADV_POPULATE_WRITE, since Linux 5.14. Elsewhere nothing happens.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cache
from typing import Final

__all__ = ["populate_pages"]

_MADV_POPULATE_WRITE: Final = 23  # the same on every architecture that has it

Advise = Callable[[int, int, int], int]


@cache
def _madvise() -> Advise | None:
    import ctypes  # late: a program that opens no store does without

    try:
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # no such call on this system
        return None
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    found: Advise = advise
    return found


def populate_pages(memory: mmap.mmap, start: int, end: int) -> bool:
    """Makes the whole pages between two offsets writable; returns whether the system did so. Keeps their contents."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    size = end // mmap.PAGESIZE * mmap.PAGESIZE - first
    advise = _madvise()
    if advise is None or size <= 0:
        return False
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return advise(address + first, size, _MADV_POPULATE_WRITE) == 0
