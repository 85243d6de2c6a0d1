"""The peer: OpenTelemetry's SDK with a span processor that batches, and an exporter that writes SQLite.

The exporter is what a careful user would write: one connection, WAL, `synchronous = NORMAL` (less than ours promises),
a batch a transaction, attributes as JSON. It keeps no ring.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.records import CAPABILITY

__all__ = ["Peer"]

_QUEUE_SPANS: Final = 40_000  # as many traces as our buffer holds
_DELAY_MS: Final = 1_000  # our flush interval
_SCHEMA: Final = """
CREATE TABLE spans (
    trace_id   TEXT NOT NULL,
    span_id    TEXT NOT NULL,
    parent_id  TEXT,
    name       TEXT NOT NULL,
    start_ns   INTEGER NOT NULL,
    end_ns     INTEGER NOT NULL,
    status     TEXT NOT NULL,
    attributes TEXT NOT NULL
)
"""


class SQLiteExporter(SpanExporter):
    """Writes spans to a table."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(_SCHEMA)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Commits a batch."""
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany("INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_row, spans))
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Closes the database."""
        self._connection.close()


def _row(span: ReadableSpan) -> tuple[Any, ...]:
    context, parent = span.context, span.parent
    return (
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        None if parent is None else f"{parent.span_id:016x}",
        span.name,
        span.start_time,
        span.end_time,
        span.status.status_code.name,
        orjson.dumps(dict(span.attributes or {})).decode(),
    )


class Peer:
    """Traces of the same shape as ours: a root, and a child with two attributes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._provider = TracerProvider()
        exporter = SQLiteExporter(path)
        processor = BatchSpanProcessor(exporter, max_queue_size=_QUEUE_SPANS, schedule_delay_millis=_DELAY_MS)
        self._provider.add_span_processor(processor)
        self._start = self._provider.get_tracer("bench").start_as_current_span

    def make_trace(self) -> None:
        """Makes one trace."""
        with self._start(CAPABILITY), self._start("handle", attributes={"model": "tiny", "size": 3}):
            pass

    def close(self) -> int:
        """Exports the rest; returns how many traces are in the database whole."""
        self._provider.shutdown()
        connection = sqlite3.connect(self._path)
        try:
            roots, spans = connection.execute("SELECT sum(parent_id IS NULL), count(*) FROM spans").fetchone()
        finally:
            connection.close()
        return int(min(roots or 0, spans // 2))
