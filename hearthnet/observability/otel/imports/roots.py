"""The id of a trace's root, back into the column that it was made of.

`root_span_id` mixes the id with the trace's start on two clocks, and only the one of the wall is exported. The mixing
can be undone: so the same id comes out again, and what was called from a trace still names it as its parent.
"""

from __future__ import annotations

from typing import Final

from hearthnet.observability.traces.traceparent import root_span_id

__all__ = ["mono_ns_of"]

_SPREAD: Final = 0x9E37_79B9_7F4A_7C15  # that of `root_span_id`; a test compares
_SHIFT: Final = 7
_BITS: Final = 64 + _SHIFT
_INVERSE: Final = pow(_SPREAD, -1, 2**_BITS)
_MAX_INTEGER: Final = 2**63  # that a column holds


def mono_ns_of(trace_id: str, started_us: int, span_id: str) -> int | None:
    """Returns the least time in nanoseconds with which a trace's root has this id; None: no time that a column holds.

    128 times have it, spread over 2^71. That of a clock which counts from the start of a machine is the lowest by far.

    Args:
        trace_id: a ULID.
        started_us: UTC microseconds.
        span_id: 16 hexadecimal digits.
    """
    high = (int(span_id, 16) ^ int(root_span_id(trace_id, started_us, 0), 16)) << _SHIFT
    least = min((high + low) * _INVERSE % 2**_BITS for low in range(1 << _SHIFT))
    is_it = least < _MAX_INTEGER and root_span_id(trace_id, started_us, least) == span_id
    return least if is_it else None
