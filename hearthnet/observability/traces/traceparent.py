"""W3C Trace Context: the `traceparent` header in and out, and the two spellings of a trace id.

A ULID and a W3C trace id are both 128 bits: each has exactly one spelling as the other, except all zeros, which the W3C
form forbids. `tracestate` is neither read nor passed on: it is for other vendors' tools, and free text of a caller does
not belong in a record.

    from hearthnet.observability.traces import traceparent
    response = await client.post(url, json=body, headers=traceparent.headers_for())
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from hearthnet.observability.records.context import innermost
from hearthnet.observability.records.ids import is_trace_id

if TYPE_CHECKING:
    from hearthnet.observability.tracing import Trace

__all__ = ["TRACEPARENT", "TraceParent", "from_w3c", "headers_for", "parse", "root_span_id", "spell", "to_w3c"]

TRACEPARENT: Final = "traceparent"

_HEADER: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_VERSION: Final = "00"  # the one that is written; later ones are read as far as they repeat it
_FORBIDDEN_VERSION: Final = "ff"
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SAMPLED: Final = 1

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Crockford's digits to those that `int(text, 32)` reads.
_TO_BASE32: Final = str.maketrans(_CROCKFORD, "0123456789abcdefghijklmnopqrstuv")
_ULID_SHIFTS: Final = range(125, -1, -5)  # 26 characters of five bits; the first has three

_64_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15  # 2**64 over the golden ratio, odd: times it, no two numbers become one


class TraceParent(NamedTuple):
    """A caller's trace: `trace_id` as a ULID, `span_id` as 16 hexadecimal digits."""

    trace_id: str
    span_id: str
    is_sampled: bool


def to_w3c(trace_id: str) -> str:
    """Returns a ULID as the 32 hexadecimal digits of a W3C trace id.

    Raises:
        ValueError: raised when the text is no ULID in its canonical spelling.
    """
    if not is_trace_id(trace_id):
        raise ValueError("not a ULID")
    return f"{int(trace_id.translate(_TO_BASE32), 32):032x}"


def from_w3c(trace_id: str) -> str:
    """Returns 32 lower-case hexadecimal digits as a ULID.

    Raises:
        ValueError: raised when the text is no W3C trace id; all zeros are none.
    """
    if _TRACE_ID.fullmatch(trace_id) is None or trace_id == _NO_TRACE:
        raise ValueError("not a W3C trace id")
    number = int(trace_id, 16)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in _ULID_SHIFTS)


def parse(header: str) -> TraceParent | None:
    """Returns the content of a `traceparent` header, or None if it breaks a rule of its version."""
    match = _HEADER.fullmatch(header.strip(" \t"))  # HTTP allows both around a value
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == _FORBIDDEN_VERSION or (version == _VERSION and more is not None):
        return None
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceParent(from_w3c(trace_id), span_id, bool(int(flags, 16) & _SAMPLED))


def spell(trace_id: str, span_id: str, *, is_sampled: bool = True) -> str:
    """Returns the header for a call made in a span: `trace_id` a ULID, `is_sampled` whether the span is recorded.

    Raises:
        ValueError: raised when an id is none, or all zeros.
    """
    if _SPAN_ID.fullmatch(span_id) is None or span_id == _NO_SPAN:
        raise ValueError("not a span id")
    hexadecimal = to_w3c(trace_id)
    if hexadecimal == _NO_TRACE:
        raise ValueError("all zeros are no W3C trace id")
    return f"{_VERSION}-{hexadecimal}-{span_id}-{_SAMPLED if is_sampled else 0:02x}"


def root_span_id(trace_id: str, started_us: int, started_ns: int) -> str:
    """Returns the id of a trace's root as 16 hexadecimal digits, always the same for the same trace.

    A trace has no id of its own outside its spans. This one is made of columns of its row (`started_us`,
    `started_mono_ns`), so a reader of the row can find the called side, which has it as `parent_id`. Two visits of one
    distributed trace differ, because they start at different times.
    """
    low = int(to_w3c(trace_id)[16:], 16)
    mixed = low ^ (started_us * _SPREAD) ^ ((started_ns * _SPREAD) >> 7)
    return f"{mixed & _64_BITS or 1:016x}"


def headers_for(trace: Trace | None = None) -> dict[str, str]:
    """Returns the headers with which an outgoing call joins a trace: the current one, or `trace`.

    The parent is the innermost open span of this context, else the trace's root. Outside any trace there is nothing to
    join, and no header. Never raises.
    """
    scope = innermost()
    if trace is None:
        if scope is None:
            return {}
        trace = cast("Trace", scope.trace)  # tracing sets only its own scopes
        if trace.ended:
            return {}
    inside = scope.span_id if scope is not None and scope.trace is trace else None
    span_id = inside or root_span_id(trace.trace_id, trace.started_us, trace.started_ns)
    try:
        return {TRACEPARENT: spell(trace.trace_id, span_id)}
    except ValueError:  # a caller gave the id of all zeros: a ULID, but no W3C id
        return {}
