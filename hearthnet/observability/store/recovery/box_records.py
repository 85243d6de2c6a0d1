"""What a black box says, as records of the store.

A payload is checked before it becomes a record: the box may have been written by another version of this program, or
by somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

import orjson

from hearthnet.forensics.box import Box, InFlight, fields
from hearthnet.observability.records.ids import new_span_id
from hearthnet.observability.records.record import LogRecord, TraceRecord
from hearthnet.observability.records.results import INTERRUPTED

__all__ = ["Evidence", "evidence_of"]

_Number = (int, float)
# A type for each value of a payload; None in it: may be null. `list` and `dict` are JSON in the record.
_TRACE: Final = (
    (int,), (str,), (str, None), (str,), (str, None), (int,), (int,), _Number, (str,), (str, None), (int,),
    (list,), (dict,),
)  # fmt: skip
_LOG: Final = (
    (int,), (int,), (str,), (str,), (str,), (str, None), (str, None), (int,), (int,), (dict,), (str, None),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """The records of a box, and what it says of those that it lost.

    Attributes:
        traces: finished traces, oldest first.
        logs: log records, oldest first.
        interrupted: traces that had not ended, in the order of their start; they have no number yet.
        lost_traces: traces that were neither committed nor are here any more.
        lost_logs: the same of log records.
    """

    traces: list[TraceRecord] = field(default_factory=list)
    logs: list[LogRecord] = field(default_factory=list)
    interrupted: list[TraceRecord] = field(default_factory=list)
    lost_traces: int = 0
    lost_logs: int = 0


def evidence_of(box: Box) -> Evidence:
    """Returns what a box of a process that has ended says. Never raises for what is in it."""
    run_id = box.header.run_id
    traces = [TraceRecord._make((values[0], run_id, *values[1:])) for values in _whole(box.traces, _TRACE)]
    logs = [LogRecord._make((values[0], run_id, *values[1:])) for values in _whole(box.logs, _LOG)]
    finished = {(record.trace_id, record.started_mono_ns) for record in traces}
    end_ns = _last_sign_of_life_ns(box, traces)
    return Evidence(
        traces,
        logs,
        [
            _interrupted(entry, run_id, end_ns)
            for entry in box.in_flight
            # Killed between the record and the mark: it has ended.
            if (entry.trace_id, entry.started_ns) not in finished
        ],
        _lost(box.traces, box.committed_traces),
        _lost(box.logs, box.committed_logs),
    )


def _whole(frames: list[tuple[int, bytes]], kinds: tuple[tuple[Any, ...], ...]) -> Iterator[list[Any]]:
    """Yields the values of each payload that has the shape of its table, JSON columns as bytes."""
    for _, payload in frames:
        values = fields(payload)
        if values is None or len(values) != len(kinds):
            continue
        if not all(_fits(value, kind) for value, kind in zip(values, kinds, strict=True)):
            continue
        try:
            yield [orjson.dumps(value) if isinstance(value, list | dict) else _checked(value) for value in values]
        except (TypeError, ValueError):  # an integer of 25 digits, a lone surrogate: no record of ours has one
            continue


def _checked(value: Any) -> Any:
    """Returns the value; raises ValueError for text that is no UTF-8 and for a number that is none."""
    if isinstance(value, str):
        value.encode()
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("not finite")
    return value


def _fits(value: Any, kind: tuple[Any, ...]) -> bool:
    if value is None:
        return None in kind
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    return not isinstance(value, bool) and isinstance(value, tuple(item for item in kind if item is not None))


def _last_sign_of_life_ns(box: Box, traces: list[TraceRecord]) -> int:
    """Returns the last moment that the box tells of, on its run's monotonic clock."""
    moments = [box.heartbeat_ns, box.header.started_ns]
    moments += [int(record.started_mono_ns + record.duration_ms * 1e6) for record in traces[-100:]]
    moments += [max(entry.started_ns, entry.span_started_ns or 0) for entry in box.in_flight]
    return max(moments)


def _interrupted(entry: InFlight, run_id: str, end_ns: int) -> TraceRecord:
    spans: list[dict[str, Any]] = []
    if entry.span is not None and entry.span_started_ns is not None:
        spans.append(
            {
                "id": new_span_id(),
                "parent": None,
                "name": entry.span,
                "offset_ms": (entry.span_started_ns - entry.started_ns) / 1e6,
                "duration_ms": max(0, end_ns - entry.span_started_ns) / 1e6,
                "status": "open",
                "extras": {},
            }
        )
    return TraceRecord(
        0, run_id, entry.trace_id, None, entry.capability, None, entry.started_us, entry.started_ns,
        max(0, end_ns - entry.started_ns) / 1e6, INTERRUPTED, None, 1, orjson.dumps(spans), b"{}",
    )  # fmt: skip


def _lost(frames: list[tuple[int, bytes]], committed: int) -> int:
    """Returns how many frames after the last committed one are missing."""
    if not frames:
        return 0
    kept = sum(ordinal > committed for ordinal, _ in frames)
    return max(0, frames[-1][0] - committed - kept)
