"""Databases with given rows, as a node would have written them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from benchmarks.records import count_rows

from hearthnet import database
from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store import rows


def put(
    path: Path,
    traces: Iterable[TraceRecord] = (),
    logs: Iterable[LogRecord] = (),
    runs: Iterable[tuple[str, str | None]] = (),
    version: str = "1.0",
) -> None:
    """Inserts records, whose seq is their number, and runs by id and the id of their node."""
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for run_id, node_id in runs:
            role = rows.role_of(node_id)
            connection.execute(rows.INSERT_RUN, (run_id, node_id, version, 1, "boot", 0, "prog", role))
        for table, records in ((rows.TRACES, traces), (rows.LOGS, logs)):
            for record in records:
                connection.execute(table.insert, table.with_seq(record, record.number))
        count_rows(connection)
        connection.execute("COMMIT")


@pytest.fixture(autouse=True)
def unreserved(monkeypatch):
    """New databases take no space ahead, which is three quarters of the CPU time that it costs to make one."""
    monkeypatch.setattr(database, "_reserve", lambda *_: None)
