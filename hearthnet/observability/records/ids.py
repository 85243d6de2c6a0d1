"""Trace ids (ULIDs) and span ids, minted fast enough for the caller's path.

A trace id has ten characters of time, four of a counter, and twelve that are random: 60 bits, fresh for each id.
Samplers and databases split traces by the last 56 bits, and `traceparent` says of our ids that these are random.

Within a second only the last two characters of the time change, so the others are made once a second; the rest of 128
ids is made at once, in 13 us. An id takes about 0.3 us in a loop and 1.2 us as the first of its second, where
`str(ulid.ULID())` takes 3.3 us. Ids rise within a thread, but for a clock step, and once in a million ids, when the
counter begins anew. For order across runs and clock steps use `seq`. The tests compare with python-ulid, which parses
ids at the borders and is ten times too slow for the path of every call.

A span id is eight random bytes, as the text that it is everywhere; those of 128 spans are drawn at once.

Guarantees: no lock; `next()` on an iterator is atomic; threads that race for new randomness draw their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import time_ns

from hearthnet.observability.redaction.expressions import Expression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["canonical", "id_source", "is_trace_id", "new_span_id", "new_trace_id"]

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base32
_PAIRS: Final = tuple(a + b for a in _ALPHABET for b in _ALPHABET)  # ten bits at a time
_DIGIT_OF_BYTE: Final = (_ALPHABET * 8).encode()  # 256 is a multiple of 32: each digit is as likely
_COUNTER_LIMIT: Final = 1 << 20  # four characters
_DRAWN_IDS: Final = 128  # at once; a divisor of 1,024
_TAIL_CHARS: Final = 16
_COUNTER_PAIRS: Final = "".join(_PAIRS).encode()
_NO_SPAN_ID: Final = "0" * 16  # as W3C has it
_SPAN_ID_INSTEAD: Final = "1" * 16
_SECOND_NS: Final = 1_024_000_000
_TRACE_ID: Final = Expression(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")  # 26 characters hold 130 bits, a ULID has 128


class _Second:
    """The part of the time that all ids of 1,024 milliseconds have, and when these begin."""

    __slots__ = ("started_ns", "time")

    def __init__(self, number: int) -> None:
        self.started_ns = number * _SECOND_NS
        self.time = _spell(number, 8)


class _Tails:
    """The counter and the randomness of the next ids.

    Attributes:
        following: where the counter goes on after them.
        left: the tails that no id has yet.
    """

    __slots__ = ("following", "left")

    def __init__(self, counter: int) -> None:
        self.following = (counter + _DRAWN_IDS) % _COUNTER_LIMIT
        # All tails at once, a space between two; the counter is put over the first four characters of each.
        size = _TAIL_CHARS + 1
        drawn = bytearray(os.urandom(_DRAWN_IDS * size - 1).translate(_DIGIT_OF_BYTE))
        high, low = _PAIRS[counter >> 10].encode(), 2 * (counter & 1023)
        pairs = _COUNTER_PAIRS[low : low + 2 * _DRAWN_IDS]
        drawn[0::size], drawn[1::size] = high[:1] * _DRAWN_IDS, high[1:] * _DRAWN_IDS
        drawn[2::size], drawn[3::size] = pairs[0::2], pairs[1::2]
        drawn[_TAIL_CHARS::size] = b" " * (_DRAWN_IDS - 1)
        self.left = iter(drawn.decode().split(" "))


def _spell(number: int, length: int) -> str:
    """Returns `number` as `length` (even) base32 characters."""
    return "".join(_PAIRS[(number >> shift) & 1023] for shift in range(5 * length - 10, -1, -10))


class IdSource:
    """The randomness that this process's ids are made of.

    Attributes:
        second: of the trace ids minted last.
        moment: their millisecond: when it began and ends, in nanoseconds, and the first ten characters of an id.
        tails: of the trace ids to come.
        span_ids: of the spans to come; when it ends, `new_span_id` draws others.
    """

    __slots__ = ("moment", "second", "span_ids", "tails")

    moment: tuple[int, int, str]
    second: _Second
    tails: _Tails
    span_ids: Iterator[str]

    def __init__(self) -> None:
        self.reseed()

    def reseed(self) -> None:
        """Draws new randomness: a forked child would repeat its parent's ids otherwise."""
        self.second = _Second(0)
        self.moment = (0, 0, "")
        # Processes count from different places, in whole draws.
        self.tails = _Tails(int.from_bytes(os.urandom(4), "big") % _COUNTER_LIMIT // _DRAWN_IDS * _DRAWN_IDS)
        self.span_ids = iter(())


id_source: Final = IdSource()


def new_trace_id(now_ns: int | None = None) -> str:
    """Returns a fresh ULID for the wall-clock time `now_ns` (nanoseconds since 1970; default: now)."""
    if now_ns is None:
        now_ns = time_ns()
    began_ns, ends_ns, time = id_source.moment
    if not began_ns <= now_ns < ends_ns:
        time = _at(now_ns)
    try:
        return time + next(id_source.tails.left)
    except StopIteration:
        id_source.tails = _Tails(id_source.tails.following)
        return new_trace_id(now_ns)


def _at(now_ns: int) -> str:
    """Returns the ten characters of this millisecond, and keeps them."""
    second = id_source.second
    since_ns = now_ns - second.started_ns
    if not 0 <= since_ns < _SECOND_NS:
        second = id_source.second = _Second(now_ns // _SECOND_NS)
        since_ns = now_ns - second.started_ns
    time = second.time + _PAIRS[since_ns // 1_000_000]
    began_ns = now_ns - since_ns % 1_000_000
    id_source.moment = (began_ns, began_ns + 1_000_000, time)
    return time


def new_span_id() -> str:
    """Returns a fresh span id: 8 random bytes as 16 hexadecimal digits."""
    try:
        return next(id_source.span_ids)
    except StopIteration:
        drawn = os.urandom(8 * _DRAWN_IDS).hex(" ", 8).replace(_NO_SPAN_ID, _SPAN_ID_INSTEAD)
        id_source.span_ids = iter(drawn.split(" "))
        return new_span_id()


def is_trace_id(text: object) -> bool:
    """Returns whether `text` is a ULID in its canonical (upper-case) spelling."""
    # By the type: a proxy's own `__class__` may raise.
    return issubclass(type(text), str) and _TRACE_ID.fullmatch(text) is not None  # type: ignore[arg-type]


def canonical(trace_id: object) -> str | None:
    """Returns a trace id in its canonical spelling, or None if it is none.

    Args:
        trace_id: a ULID as text, upper or lower case, or an object whose text is one, such as a `ulid.ULID`.
    """
    if is_trace_id(trace_id):
        return trace_id  # type: ignore[return-value]
    try:
        text = str(trace_id)
    except Exception:  # its own code failed  # noqa: BLE001
        return None
    # ASCII only: the capital of some other letters is an ASCII one.
    upper = text.upper() if text.isascii() else ""
    return upper if is_trace_id(upper) else None
