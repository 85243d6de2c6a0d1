"""Stores with records of any content, for tests of what is found in them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import orjson
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store.rows import INSERT_RUN, LOGS, TRACES
from hearthnet.observability.store.search import compile_query, run_query

NOW_US = 1_790_000_000_000_000


def a_span(name, /, **extras):
    """A span as JSON has it."""
    return {
        "id": "0" * 16, "parent": None, "name": name, "offset_ms": 0.0, "duration_ms": 1.5, "status": "ok",
        "extras": extras,
    }  # fmt: skip


def trace(number, spans=(), extras=None, **changes) -> TraceRecord:
    """A trace; spans and extras are no JSON yet."""
    return a_trace(number, spans=orjson.dumps(list(spans)), extras=orjson.dumps(extras or {}), **changes)


def log(number, extras=None, **changes) -> LogRecord:
    """A log record; its extras are no JSON yet."""
    return a_log(number, extras=orjson.dumps(extras or {}), **changes)


def write(path: Path, *records: TraceRecord | LogRecord) -> Path:
    """Writes records into a new store, in their order; each run has a program of its name."""
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute("BEGIN")
        for seq, record in enumerate(records, start=1):
            table = LOGS if isinstance(record, LogRecord) else TRACES
            connection.execute(table.insert, table.with_seq(record, seq))
            connection.execute(INSERT_RUN, (record.run_id, None, "1", 1, None, 0, f"{record.run_id}.py", "library"))
        connection.execute("COMMIT")
    return path


def seqs(path: Path, text: str, table="traces", **options) -> list[int]:
    """The records that a query finds, newest first."""
    query = compile_query(text, table, now_us=NOW_US)
    assert query.problems == []
    return [row["seq"] for row in run_query(path, query, **options).rows]
