"""Rows behind a cursor, with their runs, and how many wait."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support.records import a_log, a_trace
from support.stores import put

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.otel.export.mapping import Gap, Origin
from hearthnet.observability.store import rows
from hearthnet.observability.store.query import unsent
from hearthnet.observability.store.reader import Reader


@pytest.fixture
def reader(tmp_path):
    """A store with traces of odd seqs, log records of even ones, a gap and two runs."""
    path = tmp_path / "telemetry.db"
    put(path, [a_trace(n) for n in (1, 3, 5)], [a_log(n) for n in (2, 4, 6)], [("run", "node-1"), ("other", None)])
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute(rows.INSERT_GAP, (7, 7_000_000, "trace", "killed", 2, "run"))
        connection.execute("UPDATE state SET value = 7 WHERE name = 'seq'")
    with closing(Reader(path)) as made:
        yield made


def test_rows_behind_a_cursor(reader):
    """In their order, up to the last and to the limit; gaps are among the log records."""
    assert [record.seq for record in unsent.traces_after(reader, 1, 7, 10)] == [3, 5]
    assert [record.seq for record in unsent.traces_after(reader, 0, 4, 10)] == [1, 3]
    assert [record.seq for record in unsent.logs_after(reader, 2, 7, 10)] == [4, 6, 7]
    assert [record.seq for record in unsent.logs_after(reader, 2, 7, 2)] == [4, 6]
    assert unsent.logs_after(reader, 6, 7, 1) == [Gap("run", 7, 7_000_000, "trace", "killed", 2)]
    assert unsent.last_seq(reader) == 7


def test_runs_of_the_rows(reader):
    """Those that are known."""
    found = unsent.origins(reader, ["run", "other", "gone"])

    assert found == {
        "run": Origin("run", "node-1", "prog", "1.0", 1, "node"),
        "other": Origin("other", None, "prog", "1.0", 1, "library"),
    }


def test_progress(reader):
    """How many wait, since when, and how many were evicted; nothing where there is no export, or no such table."""

    def progress(*statements):
        with closing(sqlite3.connect(reader.path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
            return unsent.progress(connection)

    assert progress() == {}
    found = progress("INSERT INTO state VALUES ('otlp.traces', 3), ('otlp.traces.lost', 9), ('otlp.logs', 7)")
    assert found == {"traces": (3, 1, 5_001_000, 9), "logs": (7, 0, None, 0)}
    assert unsent.state(reader) == (7, {"traces": 3, "logs": 7}, {"traces": 9, "logs": 0})
    assert progress("DROP TABLE state") == {}


@pytest.mark.parametrize(
    ("wanted", "traces", "logs"),
    [
        (unsent.Selected(since_us=3_000_000), 2, 3),
        (unsent.Selected(until_us=4_000_000), 2, 1),
        (unsent.Selected(trace_id="run-3"), 1, 0),
        (unsent.Selected(), 3, 4),
    ],
)
def test_what_is_chosen_is_counted(reader, wanted, traces, logs):
    """As many as are read."""
    assert unsent.count(reader, wanted) == {"traces": traces, "logs": logs}
    assert len(unsent.traces_after(reader, 0, 7, 10, wanted)) == traces
    assert len(unsent.logs_after(reader, 0, 7, 10, wanted)) == logs
