"""Mints trace ids (ULIDs) and span ids fast enough for the caller's path.

One idea: within a millisecond only the last four of a ULID's twenty-six characters change, so time and randomness
are spelled out once a millisecond and the tail is a counter. About 0.3 us an id, where `str(ulid.ULID())` takes
3.3 us. Ids rise within a thread and a millisecond; order over runs and clock steps is `seq`, never an id.
python-ulid, which parses ids at the borders, is what the tests compare with.

Guarantees: no lock; `next()` on a counter is atomic; threads that race at a new millisecond draw separate randomness.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import count
from time import time_ns
from typing import Final

__all__ = ["is_trace_id", "new_span_id", "new_trace_id", "next_span_number", "span_id_of"]

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base32
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)  # ten bits at a time
_TAIL_LIMIT: Final = 1 << 20  # four characters
_TRACE_ID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")  # 26 characters hold 130 bits, a ULID has 128


class _Millisecond:
    """The spelled-out head of all ids of one millisecond, and the counter of their tails."""

    __slots__ = ("head", "ms", "next_tail")

    def __init__(self, ms: int) -> None:
        self.ms = ms
        entropy = int.from_bytes(os.urandom(10), "big")
        # The tail starts in the lower half, so that half a million ids fit before the head must be drawn anew.
        self.head = _spell(ms, 10) + _spell(entropy >> 20, 12)
        self.next_tail = count(entropy & (_TAIL_LIMIT // 2 - 1)).__next__


def _spell(number: int, length: int) -> str:
    """Returns `number` as `length` (even) base32 characters."""
    return "".join(_PAIRS[(number >> shift) & 1023] for shift in range(5 * length - 10, -1, -10))


def _span_numbers() -> Callable[[], int]:
    # The upper half of the range is left to count into: no process lives long enough to leave it.
    return count((int.from_bytes(os.urandom(8), "big") >> 1) + 1).__next__


_current = _Millisecond(0)
# Returns a fresh span id as a number, never 0. Ask the module for it: it is another function in a forked child.
next_span_number = _span_numbers()


def new_trace_id(now_ns: int | None = None) -> str:
    """Returns a fresh ULID for the wall-clock time `now_ns` (nanoseconds since 1970; default: now)."""
    global _current
    ms = (time_ns() if now_ns is None else now_ns) // 1_000_000
    current = _current
    if ms != current.ms:
        current = _current = _Millisecond(ms)
    tail = current.next_tail()
    if tail >= _TAIL_LIMIT:
        _current = _Millisecond(ms)
        return new_trace_id(now_ns)
    return current.head + _PAIRS[tail >> 10] + _PAIRS[tail & 1023]


def new_span_id() -> str:
    """Returns a fresh span id as it is written."""
    return span_id_of(next_span_number())


def span_id_of(number: int) -> str:
    """Returns a span id as it is written: 8 bytes as 16 hexadecimal digits."""
    return f"{number:016x}"


def is_trace_id(text: object) -> bool:
    """Tells whether `text` is a ULID in its canonical (upper-case) spelling."""
    return isinstance(text, str) and _TRACE_ID.fullmatch(text) is not None


def _reseed() -> None:
    """Gives a forked child its own randomness: it would repeat its parent's ids otherwise."""
    global _current, next_span_number
    _current = _Millisecond(0)
    next_span_number = _span_numbers()


os.register_at_fork(after_in_child=_reseed)
