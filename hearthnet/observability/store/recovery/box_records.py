"""Reads the records in a box.

A payload is checked before it becomes a record: the box may have been written by another version, or by anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

import orjson

from hearthnet.forensics.box import Box, InFlight, fields
from hearthnet.observability.records.ids import new_span_id
from hearthnet.observability.records.record import LogRecord, TraceRecord
from hearthnet.observability.records.results import INTERRUPTED

__all__ = ["BoxRecords", "records_of"]

Types = tuple[type, ...]
_JSON: Final[dict[str, Types]] = {"spans": (list,), "extras": (dict,)}  # bytes in the record


def _types_of(record: type[TraceRecord | LogRecord]) -> dict[str, Types]:
    """Returns the types that each value of a frame may have. A frame is a record without the run, which the box has."""
    hints = get_type_hints(record)
    del hints["run_id"]
    return {name: _JSON.get(name) or _types_in(hint) for name, hint in hints.items()}


def _types_in(hint: Any) -> Types:
    if hint is float:
        return (int, float)  # JSON may have written 1.0 as 1
    return get_args(hint) or (hint,)


_TRACE: Final = _types_of(TraceRecord)
_LOG: Final = _types_of(LogRecord)


@dataclass(frozen=True, slots=True)
class BoxRecords:
    """The records in a box, and how many it had to drop.

    Attributes:
        traces: finished traces, oldest first.
        logs: log records, oldest first.
        interrupted: traces that had not ended, in the order of their start; they have no number yet.
        dropped_traces: traces that were neither committed nor are in the box any more.
        dropped_logs: the same for log records.
    """

    traces: list[TraceRecord] = field(default_factory=list)
    logs: list[LogRecord] = field(default_factory=list)
    interrupted: list[TraceRecord] = field(default_factory=list)
    dropped_traces: int = 0
    dropped_logs: int = 0


def records_of(box: Box) -> BoxRecords:
    """Returns the records in the box of an ended process. Never raises for the content of the box."""
    run_id = box.header.run_id
    traces = [TraceRecord(run_id=run_id, **values) for values in _valid(box.traces, _TRACE)]
    logs = [LogRecord(run_id=run_id, **values) for values in _valid(box.logs, _LOG)]
    finished = {(record.trace_id, record.started_mono_ns) for record in traces}
    end_ns = _last_sign_ns(box, traces)
    return BoxRecords(
        traces,
        logs,
        [
            _interrupted(entry, run_id, end_ns)
            for entry in box.in_flight
            # If the process was killed between the record and the mark, the trace has ended.
            if (entry.trace_id, entry.started_ns) not in finished
        ],
        _dropped(box.traces, box.committed_traces),
        _dropped(box.logs, box.committed_logs),
    )


def _valid(frames: list[tuple[int, bytes]], types: dict[str, Types]) -> Iterator[dict[str, Any]]:
    """Yields the values of each valid payload by name, JSON columns as bytes."""
    for _, payload in frames:
        values = fields(payload)
        if values is None or len(values) != len(types) or not all(map(_fits, values, types.values())):
            continue
        try:
            yield dict(zip(types, map(_column, values), strict=True))
        except (TypeError, ValueError):  # an integer of 25 digits, a lone surrogate: not written by this program
            continue


def _column(value: Any) -> Any:
    """Returns a value as its column has it; raises ValueError for text that is not UTF-8 and numbers not finite."""
    if isinstance(value, list | dict):
        return orjson.dumps(value)
    if isinstance(value, str):
        value.encode()
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("not finite")
    return value


def _fits(value: Any, types: Types) -> bool:
    if value is None:
        return NoneType in types
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    return not isinstance(value, bool) and isinstance(value, types)


def _last_sign_ns(box: Box, traces: list[TraceRecord]) -> int:
    """Returns the last moment at which the run was alive, on its monotonic clock."""
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
        seq=0,
        run_id=run_id,
        trace_id=entry.trace_id,
        parent_id=None,
        capability=entry.capability,
        version=None,
        started_us=entry.started_us,
        started_mono_ns=entry.started_ns,
        duration_ms=max(0, end_ns - entry.started_ns) / 1e6,
        result=INTERRUPTED,
        error=None,
        notable=1,
        spans=orjson.dumps(spans),
        extras=b"{}",
    )


def _dropped(frames: list[tuple[int, bytes]], committed: int) -> int:
    """Returns how many frames after the last committed one are missing."""
    if not frames:
        return 0
    present = sum(ordinal > committed for ordinal, _ in frames)
    return max(0, frames[-1][0] - committed - present)
