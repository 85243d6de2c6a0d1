"""W3C Trace Context: the headers `traceparent` and `tracestate` in and out, and the two spellings of a trace id.

A ULID and a W3C trace id are both 128 bits: each has exactly one spelling as the other, except all zeros, which the W3C
form forbids. `tracestate` is for other vendors' tools: a trace carries it from the call that came in to those that go
out, as the standard demands. It is not recorded: free text of a caller does not belong there.

    from hearthnet.observability.traces import traceparent
    response = await client.post(url, json=body, headers=traceparent.headers_for())
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from hearthnet.observability.records.context import innermost
from hearthnet.observability.records.ids import is_trace_id

if TYPE_CHECKING:
    from hearthnet.observability.traces.trace import Trace

__all__ = [
    "TRACEPARENT",
    "TRACESTATE",
    "TraceParent",
    "from_w3c",
    "headers_for",
    "parse",
    "read_tracestate",
    "root_span_bytes",
    "root_span_id",
    "spell",
    "to_bytes",
    "to_w3c",
]

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

_HEADER: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_VERSION: Final = "00"  # the one that is written; later ones are read as far as they repeat it
_FORBIDDEN_VERSION: Final = "ff"
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SAMPLED: Final = 1
_RANDOM: Final = 2

_MEMBER: Final = re.compile(
    r"[0-9a-z][0-9a-z_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MAX_MEMBERS: Final = 32
_MAX_STATE_CHARS: Final = 512
_LARGE_MEMBER_CHARS: Final = 128
_MAX_READ_CHARS: Final = 32_768  # twice what 32 of the longest members take

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Crockford's digits to those that `int(text, 32)` reads.
_TO_BASE32: Final = str.maketrans(_CROCKFORD, "0123456789abcdefghijklmnopqrstuv")
_ULID_SHIFTS: Final = range(125, -1, -5)  # 26 characters of five bits; the first has three

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_64_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15  # 2**64 over the golden ratio, odd: times it, no two numbers become one


class TraceParent(NamedTuple):
    """A caller's trace: `trace_id` as a ULID, `span_id` as 16 hexadecimal digits.

    `is_random` says whether the low 56 bits of the trace id are random.
    """

    trace_id: str
    span_id: str
    is_sampled: bool
    is_random: bool = False


def to_w3c(trace_id: str) -> str:
    """Returns a ULID as the 32 hexadecimal digits of a W3C trace id.

    Raises:
        ValueError: raised when the text is no ULID in its canonical spelling.
    """
    return to_bytes(trace_id).hex()


def to_bytes(trace_id: str) -> bytes:
    """Returns a ULID as the 16 bytes of a W3C trace id.

    Raises:
        ValueError: raised when the text is no ULID in its canonical spelling.
    """
    if not is_trace_id(trace_id):
        raise ValueError("not a ULID")
    return int(trace_id.translate(_TO_BASE32), 32).to_bytes(_TRACE_ID_BYTES)


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
    bits = int(flags, 16)
    return TraceParent(from_w3c(trace_id), span_id, bool(bits & _SAMPLED), bool(bits & _RANDOM))


def read_tracestate(headers: Sequence[str]) -> str:
    """Returns what to pass on of the `tracestate` headers of one request, in their order, as one; "" for nothing.

    To be called only if the request has a valid `traceparent`. All is dropped if a member breaks the grammar, or there
    are more than 32. Of more than 512 characters whole members are dropped: first those over 128, then the last.
    """
    text = ",".join(headers)
    if len(text) > _MAX_READ_CHARS:
        return ""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    if len(members) > _MAX_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    is_too_long = len(",".join(members)) > _MAX_STATE_CHARS
    while is_too_long:
        large = [at for at, member in enumerate(members) if len(member) > _LARGE_MEMBER_CHARS]
        del members[large[-1] if large else -1]
        is_too_long = len(",".join(members)) > _MAX_STATE_CHARS
    return ",".join(members)


def spell(trace_id: str, span_id: str, *, is_sampled: bool = True, is_random: bool = False) -> str:
    """Returns the header for a call made in a span.

    Args:
        trace_id: a ULID.
        span_id: 16 hexadecimal digits.
        is_sampled: whether the span is recorded.
        is_random: whether the low 56 bits of the trace id are known to be random.

    Raises:
        ValueError: raised when an id is none, or all zeros.
    """
    if _SPAN_ID.fullmatch(span_id) is None or span_id == _NO_SPAN:
        raise ValueError("not a span id")
    hexadecimal = to_w3c(trace_id)
    if hexadecimal == _NO_TRACE:
        raise ValueError("all zeros are no W3C trace id")
    return f"{_VERSION}-{hexadecimal}-{span_id}-{_SAMPLED * is_sampled | _RANDOM * is_random:02x}"


def root_span_id(trace_id: str, started_us: int, started_ns: int) -> str:
    """Returns the id of a trace's root as 16 hexadecimal digits, always the same for the same trace.

    A trace has no id of its own outside its spans. This one is made of columns of its row (`started_us`,
    `started_mono_ns`), so a reader of the row can find the called side, which has it as `parent_id`. Two visits of one
    distributed trace differ, because they start at different times.
    """
    return root_span_bytes(to_bytes(trace_id), started_us, started_ns).hex()


def root_span_bytes(trace_id: bytes, started_us: int, started_ns: int) -> bytes:
    """Returns the same as 8 bytes; the trace's id is given as 16."""
    low = int.from_bytes(trace_id[_SPAN_ID_BYTES:])
    mixed = low ^ (started_us * _SPREAD) ^ ((started_ns * _SPREAD) >> 7)
    return (mixed & _64_BITS or 1).to_bytes(_SPAN_ID_BYTES)


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
        parent = spell(trace.trace_id, span_id, is_random=trace.is_random)
    except ValueError:  # a caller gave the id of all zeros: a ULID, but no W3C id
        return {}
    return {TRACEPARENT: parent, TRACESTATE: trace.tracestate} if trace.tracestate else {TRACEPARENT: parent}
