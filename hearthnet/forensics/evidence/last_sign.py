"""The last sign of life that a black box has: by heartbeats, samples and records.

The next start stores it with the run, so that as much is known of its end after it as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from hearthnet.forensics.box import ENTRIES, Box, Frame, InFlight, fields

__all__ = ["last_moments", "last_seen_us"]

_LAST: Final = 100  # records are in the order of their end, except for a few that ended at the same time
_MAX_MS: Final = 1e12  # a longer duration is invalid
_MAX: Final = 2**63
# A writer's heartbeats are no further apart while it records: so much later than one its clock was set, at the most.
_MAX_AFTER_NS: Final = 120 * 1_000_000_000


class _Ended(NamedTuple):
    """A finished trace: its start by both clocks, and its end by the monotonic one."""

    number: int
    trace_id: str
    started_us: int
    started_ns: int
    ended_ns: int


def last_moments(box: Box) -> tuple[list[InFlight], int]:
    """Returns the traces of a box that had not ended, and when it last shows its run alive, by the monotonic clock.

    A process may die after it has recorded a trace, but before it has cleared the slot: such a trace has ended.
    """
    ended = list(_ended(box.traces[-ENTRIES:]))
    finished = {(trace.trace_id, trace.started_ns) for trace in ended}
    flying = [trace for trace in box.in_flight if (trace.trace_id, trace.started_ns) not in finished]
    return flying, _last_ns(box, ended)


def last_seen_us(box: Box) -> int:
    """Returns when a box's run was last known alive, in UTC microseconds, by the clock as it was then set.

    The heartbeat is by the monotonic clock. What started last had both clocks read at nearly the same time.
    """
    ended = list(_ended(box.traces[-_LAST:]))
    started_ns, started_us = _clocks(box, ended)
    seen = [box.ended_us, started_us + (_last_ns(box, ended) - started_ns) // 1_000]
    seen += [sample.ts_us for sample in box.vitals[-1:]]
    seen += _logged_us(box)
    return max(moment for moment in seen if moment < _MAX)


def _clocks(box: Box, ended: list[_Ended]) -> tuple[int, int]:
    """Returns one moment by the monotonic clock and by UTC: the last start of anything."""
    clocks = [(box.header.started_ns, box.header.started_us)]
    clocks += [(trace.started_ns, trace.started_us) for trace in ended]
    clocks += [(trace.started_ns, trace.started_us) for trace in box.in_flight]
    return max(clocks)


def _logged_us(box: Box, after: int = 0) -> list[int]:
    """Returns when the last log records were made, by the wall clock; of those with a higher number than `after`."""
    logged = _values(box.logs[-_LAST:], "logs")
    return [_integer(values.get("ts_us")) for values in logged if _integer(values["number"]) > after]


def _last_ns(box: Box, ended: list[_Ended]) -> int:
    moments = [box.heartbeat_ns, box.header.started_ns, *(trace.ended_ns for trace in ended)]
    last_ns = max(moments + [max(trace.started_ns, trace.span_started_ns or 0) for trace in box.in_flight])
    started_ns, started_us = _clocks(box, ended)
    # Those before the last trace are older than its end, whatever the clock says: it may have been set back since.
    after = max((trace.number for trace in ended), default=0)
    logged_ns = max(((moment - started_us) * 1_000 + started_ns for moment in _logged_us(box, after)), default=0)
    return max(last_ns, min(logged_ns, last_ns + _MAX_AFTER_NS))


def _ended(frames: list[Frame]) -> Iterator[_Ended]:
    for values in _values(frames, "traces"):
        took_ms, trace_id = values["duration_ms"], values["trace_id"]
        is_number = isinstance(took_ms, int | float) and 0 <= took_ms <= _MAX_MS
        started_us, started_ns = _integer(values["started_us"]), _integer(values["started_mono_ns"])
        if isinstance(trace_id, str):
            ended_ns = started_ns + int(took_ms * 1e6) if is_number else started_ns
            yield _Ended(_integer(values["number"]), trace_id, started_us, started_ns, ended_ns)


def _values(frames: list[Frame], table: str) -> Iterator[dict[str, Any]]:
    """Yields the values of each payload that is a record: it is known by its number."""
    for frame in frames:
        values = fields(frame, table)
        if values is not None and _integer(values["number"]):
            yield values


def _integer(value: object) -> int:
    """Returns an integer of 64 bits; 0 for any other value, for a box may have been written by anything."""
    return value if isinstance(value, int) and not isinstance(value, bool) and -_MAX <= value < _MAX else 0
