"""A telemetry.db of any earlier schema keeps its rows, and what several writers share is right from the start."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support.old_store import FILES, OLDER, old_store

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability import telemetry, trace
from hearthnet.observability.telemetry import DATABASE


@pytest.mark.parametrize("version", OLDER)
def test_rows_get_their_seq_as_number(tmp_path, version):
    """Of rows from before records had numbers, the seq identifies them within their run, and in a box of that time."""
    path = tmp_path / "data" / DATABASE
    old_store(path, version)
    with closing(open_database(path, TELEMETRY)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (max(FILES),)
        assert connection.execute("SELECT seq, number FROM traces ORDER BY seq").fetchall() == [
            (5, 5),
            (6, 6),
            (9, 9),
            (12, 12),
        ]
        assert connection.execute("SELECT seq, number FROM logs ORDER BY seq").fetchall() == [(7, 7), (8, 8), (13, 13)]
        assert connection.execute("SELECT * FROM gaps").fetchall() == [(14, 1, "log", "killed", 3, None)]
        assert dict(connection.execute("SELECT name, value FROM state")) == {
            "seq": 14,
            "traces.0": 3,
            "traces.1": 1,
            "logs.0": 2,
            "logs.1": 1,
            "traces.0.from": 0,
            "traces.1.from": 0,
            "logs.0.from": 0,
            "logs.1.from": 0,
            "killed": 13,
        }


@pytest.mark.parametrize("version", OLDER)
def test_old_store_is_written_on(observability, version):
    """A program of today keeps the rows, closes the run that was killed, and its records come after all others."""
    path = observability.data_dir / DATABASE
    old_store(path, version)
    with telemetry.open(observability) as t:
        with trace.new_trace("of.today"):
            pass
        assert t.flush()
        assert [record.capability for record in t.find(10, telemetry.ANY)] == ["of.today", *["a.b"] * 4]

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT seq > 14, number FROM traces WHERE capability = 'of.today'").fetchall() == [
            (1, 1)
        ]
        assert connection.execute("SELECT run_id, end_reason FROM runs WHERE run_id = 'killed'").fetchall() == [
            ("killed", "unclean")
        ]
        assert connection.execute("SELECT count(*) FROM state WHERE name = 'killed'").fetchone() == (0,)


def test_empty_old_store_begins_at_nothing(tmp_path):
    """A store without a row has no seq given yet."""
    path = tmp_path / "data" / DATABASE
    old_store(path, OLDER[-1])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("DELETE FROM traces; DELETE FROM logs; DELETE FROM gaps; DELETE FROM runs;")
    with closing(open_database(path, TELEMETRY)) as connection:
        found = dict(connection.execute("SELECT name, value FROM state"))

    assert set(found.values()) == {0}
    assert len(found) == 9
