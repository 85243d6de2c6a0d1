"""Runs that could commit nothing, several in a row, whatever the cause: the first that can takes over their records."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, suppress

import pytest

from hearthnet.forensics import box as layout
from hearthnet.observability import telemetry, trace
from hearthnet.observability.store import thread, writer
from hearthnet.observability.store.recovery import opening
from hearthnet.observability.telemetry import DATABASE

RUNS, CALLS = 3, 10


@contextmanager
def changed(path, break_it, mend_it):
    """A schema that refuses every record."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(break_it)
    yield
    with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.OperationalError):  # a new one needs no mending
        connection.executescript(mend_it)


@contextmanager
def renamed_column(path):
    """A column has another name."""
    with changed(
        path,
        "ALTER TABLE traces RENAME COLUMN error TO failure",
        "ALTER TABLE traces RENAME COLUMN failure TO error",
    ):
        yield


@contextmanager
def trigger(path):
    """A trigger of the user's refuses rows."""
    with changed(
        path,
        "CREATE TRIGGER no BEFORE INSERT ON traces BEGIN SELECT RAISE(ABORT, 'not today'); END",
        "DROP TRIGGER no",
    ):
        yield


@contextmanager
def added_column(path):
    """A table has a column that must have a value."""
    with changed(
        path,
        "DROP VIEW IF EXISTS timeline; ALTER TABLE state RENAME TO states;"
        " CREATE VIEW timeline AS SELECT 1; CREATE VIEW state AS SELECT * FROM states",
        "DROP VIEW state; ALTER TABLE states RENAME TO state",
    ):
        yield


@contextmanager
def locked(path):
    """Another program keeps the database locked."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def newer(path):
    """A newer version of this program has been here, and is taken back."""
    with closing(sqlite3.connect(path)) as connection:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    with changed(path, "PRAGMA user_version = 99", f"PRAGMA user_version = {version}"):
        yield


def record(count, capability):
    """Records so many traces."""
    for _ in range(count):
        with trace.new_trace(capability):
            pass


MENDED = (renamed_column, added_column)  # by the first run: it moves the database aside


@pytest.mark.parametrize("cause", [renamed_column, trigger, added_column, locked, newer])
def test_records_of_all_of_them_are_taken_over(observability, monkeypatch, cause):
    """Their numbers are equal, each run's from 1: all are rows, once, with seqs of their own; nothing is a gap."""
    path = observability.data_dir / DATABASE
    with telemetry.open(observability) as t:
        record(CALLS, "of.before")
        assert t.flush()
    with cause(path), monkeypatch.context() as patch:
        for place, name in ((opening, "PATIENT_S"), (writer, "PATIENT_S"), (thread, "PATIENT_S"), (thread, "_END_S")):
            patch.setattr(place, name, 0.05)  # the lock is kept longer than any of them
        for run in range(RUNS):
            with telemetry.open(observability):
                record(CALLS, f"of.run{run}")
        assert len(layout.boxes_in(observability.data_dir)) == (0 if cause in MENDED else RUNS)
    with telemetry.open(observability) as t:
        assert t.error is None
        record(1, "of.after")
        assert t.flush()

    with closing(sqlite3.connect(path)) as connection:
        found = dict(connection.execute("SELECT capability, count(*) FROM traces GROUP BY 1").fetchall())
        assert found == {"of.before": CALLS, **{f"of.run{run}": CALLS for run in range(RUNS)}, "of.after": 1}
        assert connection.execute("SELECT count(DISTINCT seq) FROM traces").fetchone() == ((RUNS + 1) * CALLS + 1,)
        assert connection.execute("SELECT count(*) FROM gaps").fetchone() == (0,)
        assert connection.execute("SELECT DISTINCT end_reason FROM runs").fetchall() == [("clean",)]
    assert layout.boxes_in(observability.data_dir) == []
