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
from hearthnet.observability.records.record import LogRecord, TraceRecord, column_types
from hearthnet.observability.records.results import INTERRUPTED

__all__ = ["Evidence", "evidence_of"]

_JSON: Final = {"spans": list, "extras": dict}  # decoded in a payload, JSON in the record


def _kinds(record: type[TraceRecord | LogRecord]) -> dict[str, tuple[type, ...]]:
    """Returns the types that a payload's values may have; a float may be a whole number."""
    kinds = {**column_types(record), **{name: (kind,) for name, kind in _JSON.items()}}
    return {name: (int, float) if float in kind else kind for name, kind in kinds.items()}


_TRACE: Final = _kinds(TraceRecord)
_LOG: Final = _kinds(LogRecord)


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
    traces = [TraceRecord(run_id=run_id, **values) for values in _whole(box.traces, "traces", _TRACE)]
    logs = [LogRecord(run_id=run_id, **values) for values in _whole(box.logs, "logs", _LOG)]
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


def _whole(frames: list[tuple[int, bytes]], table: str, kinds: dict[str, tuple[type, ...]]) -> Iterator[dict[str, Any]]:
    """Yields the values of each payload that has the shape of its table, JSON columns as bytes."""
    for _, payload in frames:
        values = fields(payload, table)
        if values is None or not all(_fits(value, kinds[name]) for name, value in values.items()):
            continue
        try:
            yield {name: orjson.dumps(value) if name in _JSON else _checked(value) for name, value in values.items()}
        except (TypeError, ValueError):  # an integer of 25 digits, a lone surrogate: no record of ours has one
            continue


def _checked(value: Any) -> Any:
    """Returns the value; raises ValueError for text that is no UTF-8 and for a number that is none."""
    if isinstance(value, str):
        value.encode()
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("not finite")
    return value


def _fits(value: Any, kind: tuple[type, ...]) -> bool:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    return not isinstance(value, bool) and isinstance(value, kind)


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
