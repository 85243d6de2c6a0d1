"""Trace ids (ULIDs) and span ids, minted fast enough for the caller's path.

The idea: within a second only the last two of a ULID's ten characters of time change, so the other eight are made once
a second, with twelve characters of randomness; the last four are a counter. An id takes about 0.3 us, where
`str(ulid.ULID())` takes 3.3 us; drawing randomness each millisecond made the first id after a pause take 15 us. Ids
rise within a thread and a second, half a million of them at least: then new randomness is drawn, which may be lower.
For order across runs and clock steps use `seq`. The tests compare with python-ulid, which parses ids at the borders
and is ten times too slow for the path of every call.

Guarantees: no lock; `next()` on a counter is atomic; threads that race at a new second draw separate randomness.
Assumes: ids need not be hard to guess. One id reveals the next.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import count
from time import time_ns
from typing import Final, cast

__all__ = ["canonical", "id_source", "is_trace_id", "new_span_id", "new_trace_id", "span_id_of"]

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base32
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)  # ten bits at a time
_TAIL_LIMIT: Final = 1 << 20  # four characters
_TRACE_ID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")  # 26 characters hold 130 bits, a ULID has 128


class _Second:
    """The common part of all ids of 1,024 milliseconds, and the counter for their tails."""

    __slots__ = ("next_tail", "number", "random", "time")

    def __init__(self, number: int) -> None:
        self.number = number
        self.time = _spell(number, 8)
        entropy = int.from_bytes(os.urandom(10), "big")
        self.random = _spell(entropy >> 20, 12)
        # The tail starts in the lower half, so half a million ids fit before new randomness is drawn.
        self.next_tail = count(entropy & (_TAIL_LIMIT // 2 - 1)).__next__


def _spell(number: int, length: int) -> str:
    """Returns `number` as `length` (even) base32 characters."""
    return "".join(_PAIRS[(number >> shift) & 1023] for shift in range(5 * length - 10, -1, -10))


class IdSource:
    """The randomness that this process's ids are made of.

    Attributes:
        second: of the trace ids minted last.
        next_span_number: returns a fresh span id as a number, never 0; another function after `reseed`.
    """

    __slots__ = ("next_span_number", "second")

    second: _Second
    next_span_number: Callable[[], int]

    def __init__(self) -> None:
        self.reseed()

    def reseed(self) -> None:
        """Draws new randomness: a forked child would repeat its parent's ids otherwise."""
        self.second = _Second(0)
        # The upper half of the range is left to count into: no process lives long enough to leave it.
        self.next_span_number = count((int.from_bytes(os.urandom(8), "big") >> 1) + 1).__next__


id_source: Final = IdSource()


def new_trace_id(now_ns: int | None = None) -> str:
    """Returns a fresh ULID for the wall-clock time `now_ns` (nanoseconds since 1970; default: now)."""
    ms = (time_ns() if now_ns is None else now_ns) // 1_000_000
    current = id_source.second
    if ms >> 10 != current.number:
        current = id_source.second = _Second(ms >> 10)
    tail = current.next_tail()
    if tail >= _TAIL_LIMIT:
        id_source.second = _Second(ms >> 10)
        return new_trace_id(now_ns)
    return f"{current.time}{_PAIRS[ms & 1023]}{current.random}{_PAIRS[tail >> 10]}{_PAIRS[tail & 1023]}"


def new_span_id() -> str:
    """Returns a fresh span id as text."""
    return span_id_of(id_source.next_span_number())


def span_id_of(number: int) -> str:
    """Returns a span id as text: 8 bytes as 16 hexadecimal digits."""
    return f"{number:016x}"


def is_trace_id(text: object) -> bool:
    """Returns whether `text` is a ULID in its canonical (upper-case) spelling."""
    return isinstance(text, str) and _TRACE_ID.fullmatch(text) is not None


def canonical(trace_id: object) -> str | None:
    """Returns a trace id in its canonical spelling, or None if it is none.

    Args:
        trace_id: a ULID as text, upper or lower case, or an object whose text is one, such as a `ulid.ULID`.
    """
    if is_trace_id(trace_id):
        return cast("str", trace_id)
    try:
        text = str(trace_id)
    except Exception:  # its own code failed  # noqa: BLE001
        return None
    # ASCII only: the capital of some other letters is an ASCII one.
    upper = text.upper() if text.isascii() else ""
    return upper if is_trace_id(upper) else None
