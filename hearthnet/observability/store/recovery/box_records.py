"""Reads the records in a box.

A payload is checked before it becomes a record: the box may have been written by another version, or by anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from hearthnet.forensics.box import Box, Frame, InFlight, fields
from hearthnet.forensics.evidence.last_sign import last_moments
from hearthnet.observability.records.ids import new_span_id
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.records.results import INTERRUPTED
from hearthnet.observability.records.stored import LogRecord, TraceRecord, column_types

if TYPE_CHECKING:
    from hearthnet.observability.records.record import TraceValues

__all__ = ["BoxRecords", "record_interrupted", "records_of"]

_VALUES_AT: Final = TraceRecord._fields.index("trace_id")  # where a record's values begin that no recorder sets
_JSON: Final = {"spans": list, "extras": dict}  # decoded in a payload, JSON in the record


def _kinds(record: type[TraceRecord | LogRecord]) -> dict[str, tuple[type, ...]]:
    """Returns the types that a payload's values may have; a float may be a whole number."""
    kinds = {**column_types(record), **{name: (kind,) for name, kind in _JSON.items()}}
    return {name: (int, float) if float in kind else kind for name, kind in kinds.items()}


_TRACE: Final = _kinds(TraceRecord)
_LOG: Final = _kinds(LogRecord)


@dataclass(frozen=True, slots=True)
class BoxRecords:
    """The records in a box, and how many it had to drop.

    Attributes:
        traces: finished traces, oldest first.
        logs: log records, oldest first.
        interrupted: traces that had not ended, in the order of their start; they have no number yet.
        dropped_traces: traces that were neither committed nor are in the box any more: it was too small.
        dropped_logs: the same for log records.
        gave_way_traces: traces that were taken out of the box to keep the byte budget.
        gave_way_logs: the same for log records.
    """

    traces: list[TraceRecord] = field(default_factory=list)
    logs: list[LogRecord] = field(default_factory=list)
    interrupted: list[TraceRecord] = field(default_factory=list)
    dropped_traces: int = 0
    dropped_logs: int = 0
    gave_way_traces: int = 0
    gave_way_logs: int = 0


def records_of(box: Box) -> BoxRecords:
    """Returns the records in the box of an ended process. Never raises for the content of the box."""
    run_id = box.header.run_id
    traces = [TraceRecord(seq=0, run_id=run_id, **values) for values in _valid(box.traces, "traces", _TRACE)]
    logs = [LogRecord(seq=0, run_id=run_id, **values) for values in _valid(box.logs, "logs", _LOG)]
    flying, end_ns = last_moments(box)
    return BoxRecords(
        traces,
        logs,
        [_interrupted(entry, run_id, end_ns) for entry in flying],
        box.overwritten_traces,
        box.overwritten_logs,
        box.gave_way_traces,
        box.gave_way_logs,
    )


def record_interrupted(recorder: Recorder) -> None:
    """Records the traces that are in flight when a run ends in order; their own end then records nothing more.

    Nothing else of them is kept than of a run that was killed. Nothing may begin with this recorder any more.
    """
    flying = [] if recorder.box is None else recorder.box.in_flight()
    if recorder.box is None or not flying:
        return
    # A trace is recorded before its slot is free.
    ended = {(trace.trace_id, trace.started_mono_ns) for trace in recorder.pending_traces()}
    left = [entry for entry in flying if (entry.trace_id, entry.started_ns) not in ended]
    recorder.box.interrupted = frozenset((entry.trace_id, entry.started_ns) for entry in left)
    end_ns = monotonic_ns()
    for entry in left:
        values = _interrupted(entry, recorder.run_id, end_ns)[_VALUES_AT:]
        recorder.record_trace(cast("TraceValues", values))


def _valid(frames: list[Frame], table: str, kinds: dict[str, tuple[type, ...]]) -> Iterator[dict[str, Any]]:
    """Yields the values of each valid payload by name, JSON columns as bytes."""
    for frame in frames:
        values = fields(frame, table)
        if values is None or not all(_fits(value, kinds[name]) for name, value in values.items()):
            continue
        try:
            yield {name: _column(value) for name, value in values.items()}
        except (TypeError, ValueError):  # an integer of 25 digits, a lone surrogate: not written by this program
            continue


def _column(value: Any) -> Any:
    """Returns a value as its column has it; raises ValueError for text that is not UTF-8."""
    if isinstance(value, list | dict):
        return orjson.dumps(value)
    if isinstance(value, str):
        value.encode()
    return value


def _fits(value: Any, kind: tuple[type, ...]) -> bool:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    if isinstance(value, float) and not isfinite(value):
        return False
    return not isinstance(value, bool) and isinstance(value, kind)


def _interrupted(entry: InFlight, run_id: str, end_ns: int) -> TraceRecord:
    spans: list[dict[str, Any]] = []
    if entry.span_started_ns is not None:
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
        number=0,
        trace_id=entry.trace_id,
        parent_id=None,
        capability=entry.capability,
        version=None,
        started_us=entry.started_us,
        started_mono_ns=entry.started_ns,
        duration_ms=max(0, end_ns - entry.started_ns) / 1e6,
        result=INTERRUPTED,
        error=f"its run ended while it was {'outside any span' if entry.span is None else f'in {entry.span}'}",
        notable=1,
        spans=orjson.dumps(spans),
        extras=b"{}",
    )
