"""A telemetry.db of any earlier schema keeps its rows, and what several writers share is right from the start."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from hearthnet.database import TELEMETRY, migrations_dir, open_database
from hearthnet.observability import telemetry, trace
from hearthnet.observability.telemetry import DATABASE

FILES = {int(file.name[:4]): file for file in sorted((migrations_dir() / TELEMETRY.name).glob("*.sql"))}
WRITERS = 7  # the version from which each process commits for itself
OLDER = [version for version in FILES if version < WRITERS]
TRACE = (
    "INSERT INTO traces (seq, run_id, trace_id, capability, started_us, started_mono_ns, duration_ms, result, notable,"
    " spans, extras) VALUES (?, ?, 't', 'a.b', 1, 1, 1.5, ?, ?, '[]', '{}')"
)
LOG = (
    "INSERT INTO logs (seq, run_id, ts_us, level, logger, msg, notable, repeats, extras)"
    " VALUES (?, ?, 1, 'info', 'x', 'm', ?, 0, '{}')"
)


def old_store(path, version):
    """A store as a program with that version of the schema left it: one run ended, the other was killed."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for number, file in FILES.items():
            if number <= version:
                connection.executescript(file.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {TELEMETRY.application_id}")
        connection.execute(f"PRAGMA user_version = {version}")
        run = "INSERT INTO runs (run_id, version, pid, started_us, ended_us) VALUES (?, '1', 4194305, 1, ?)"
        connection.executemany(run, [("ended", 9), ("killed", None)])
        connection.executemany(
            TRACE, [(5, "ended", "ok", 0), (6, "ended", "timeout", 1), (9, "killed", "ok", 0), (12, "killed", "ok", 0)]
        )
        connection.executemany(LOG, [(7, "ended", 0), (8, "killed", 1), (13, "killed", 0)])
        connection.execute("INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (14, 1, 'log', 'killed', 3)")


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
