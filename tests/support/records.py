"""Small records, for tests of what becomes of records whatever they hold."""

from __future__ import annotations

from typing import Any

from hearthnet.observability.records.stored import LogRecord, TraceRecord


def a_trace(number: int, run_id: str = "run", **changes: Any) -> TraceRecord:
    """Returns a trace that ended a millisecond after it began; each number begins a second after the one before."""
    record = TraceRecord(
        seq=0, run_id=run_id, number=number, trace_id=f"{run_id}-{number}", parent_id=None, capability="a.b",
        version=None, started_us=number * 1_000_000, started_mono_ns=number * 1_000_000_000, duration_ms=1.0,
        result="ok", error=None, notable=0, spans=b"[]", extras=b"{}",
    )  # fmt: skip
    return record._replace(**changes)


def a_log(number: int, run_id: str = "run", **changes: Any) -> LogRecord:
    """Returns a log record of the same moment as the trace of that number."""
    record = LogRecord(
        seq=0, run_id=run_id, number=number, ts_us=number * 1_000_000, level="info", logger="x", msg=f"{number}",
        trace_id=None, span_id=None, notable=0, repeats=0, extras=b"{}", exc=None,
    )  # fmt: skip
    return record._replace(**changes)
