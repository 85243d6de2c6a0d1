"""The views, each compared with figures counted by hand."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support.records import a_log

from hearthnet.database import TELEMETRY, migrations_dir, open_database
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.store import rows

SECOND_US = 1_000_000


@pytest.fixture
def database(tmp_path):
    """A store with ten calls of one capability (1 to 10 ms, the last failed), one slow call, two logs and a gap."""
    connection = open_database(tmp_path / "telemetry.db", TELEMETRY)
    span = b'[{"id":"s1","parent":null,"name":"load","offset_ms":1.5,"duration_ms":2.5,"status":"ok","extras":{"n":1}}]'
    for number in range(1, 11):
        result, error = ("timeout", "TimeoutError: late") if number == 10 else ("ok", None)
        record = TraceRecord(
            number, "r", number, f"t{number}", None, "a.b", "1.0", number * SECOND_US, 0, float(number), result, error,
            int(number == 10), span if number == 1 else b"[]", b"{}",
        )  # fmt: skip
        connection.execute(rows.TRACES.insert, record)
    cancelled = TraceRecord(
        11, "r", 11, "t11", None, "c.d", None, 11 * SECOND_US, 0, 500.0, "cancelled", None, 0, b"[]", b"{}"
    )
    connection.execute(rows.TRACES.insert, cancelled)
    for seq, level in ((12, "warning"), (13, "error")):
        entry = a_log(seq, "r", seq=seq, level=level, logger="hearthnet.x", msg=f"a {level}", trace_id="t10", notable=1)
        connection.execute(rows.LOGS.insert, entry)
    connection.execute(rows.INSERT_GAP, (14, 14 * SECOND_US, "log", "buffer_full", 3, "r"))
    yield connection
    connection.close()


def test_recent_is_newest_first_and_readable(database):
    """`recent` begins with the highest seq, its time in ISO 8601 UTC."""
    found = database.execute("SELECT seq, ts, capability, result FROM recent LIMIT 2").fetchall()

    assert found == [
        (11, "1970-01-01T00:00:11.000Z", "c.d", "cancelled"),
        (10, "1970-01-01T00:00:10.000Z", "a.b", "timeout"),
    ]


def test_spans_unfold(database):
    """`spans` has one row per span, with its start in UTC and its fields as JSON."""
    found = database.execute(
        "SELECT seq, ts, trace_id, capability, name, started_us, duration_ms, status, extras FROM spans"
    ).fetchall()

    assert found == [(1, "1970-01-01T00:00:01.001Z", "t1", "a.b", "load", 1_001_500, 2.5, "ok", '{"n":1}')]


def test_errors_hold_failures_and_error_records(database):
    """`errors` has failed traces and records of level error, not the cancelled, not warnings."""
    assert database.execute("SELECT seq, kind, name, result, error FROM errors").fetchall() == [
        (13, "log", "hearthnet.x", "error", "a error"),
        (10, "trace", "a.b", "timeout", "TimeoutError: late"),
    ]


def test_capability_stats_are_nearest_rank(database):
    """Counts, error rate and the nearest-rank quantiles of 1 to 10 ms."""
    found = database.execute(
        "SELECT capability, count, failed, error_rate, p50_ms, p90_ms, p99_ms, max_ms, ts FROM capability_stats"
    ).fetchall()

    assert found == [
        ("a.b", 10, 1, 0.1, 5.0, 9.0, 10.0, 10.0, "1970-01-01T00:00:10.000Z"),
        ("c.d", 1, 0, 0.0, 500.0, 500.0, 500.0, 500.0, "1970-01-01T00:00:11.000Z"),
    ]


def test_slow_begins_with_the_slowest(database):
    """`slow` is ordered by duration."""
    assert database.execute("SELECT trace_id FROM slow LIMIT 2").fetchall() == [("t11",), ("t10",)]


def test_timeline_has_everything_in_one_order(database):
    """`timeline` joins traces, log records and gaps by seq, newest first."""
    found = database.execute("SELECT seq, kind, status, name, text FROM timeline LIMIT 4").fetchall()

    assert found == [
        (14, "gap", "buffer_full", "log", "3 lost"),
        (13, "log", "error", "hearthnet.x", "a error"),
        (12, "log", "warning", "hearthnet.x", "a warning"),
        (11, "trace", "cancelled", "c.d", None),
    ]
    assert database.execute("SELECT count(*) FROM timeline").fetchone() == (14,)


@pytest.mark.parametrize("view", ["recent", "spans", "errors", "capability_stats", "slow", "timeline", "run_history"])
def test_times_are_cut_to_milliseconds(database, view):
    """In every view, as in the JSON log; SQLite by itself rounds up what is nearer to the next one."""
    database.execute("UPDATE traces SET started_us = 5878999")
    database.execute("UPDATE logs SET ts_us = 5878999")
    database.execute("UPDATE gaps SET ts_us = 5878999")
    database.execute("UPDATE traces SET spans = replace(spans, '1.5', '0.0')")
    begin(database, "r", 5.878_999, "hearthnet", "node", 5.878_999)
    columns = "ts, ended" if view == "run_history" else "ts"

    assert {time for row in database.execute(f"SELECT {columns} FROM {view}") for time in row} == {
        "1970-01-01T00:00:05.878Z"
    }


@pytest.mark.parametrize("view", ["recent", "spans", "errors", "capability_stats", "slow", "timeline"])
def test_every_view_has_a_readable_time(database, view):
    """Each view has `ts`, ISO 8601 UTC, in every row."""
    stamps = [row[0] for row in database.execute(f"SELECT ts FROM {view}")]

    assert stamps
    assert all(len(stamp) == 24 and stamp.endswith("Z") for stamp in stamps)


def begin(connection, run_id, started_s, program, role, ended_s=None, boot="b1"):
    """Inserts a run."""
    whose = ("ed25519:n" if role == "node" else None, "1", 1, boot, started_s * SECOND_US)
    connection.execute(rows.INSERT_RUN, (run_id, *whose, program, role))
    if ended_s is not None:
        connection.execute(rows.END_RUN, (ended_s * SECOND_US, rows.CLEAN, run_id))


@pytest.mark.parametrize("view", ["recent", "errors", "timeline"])
def test_records_say_whose_they_are(database, view):
    """`program` is the last column; NULL without a row in `runs`, and for a gap, which has no run."""
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({view})")]
    unknown = set(database.execute(f"SELECT program FROM {view}"))
    begin(database, "r", 1, "cron.py", "library")

    assert columns[-1] == "program"
    assert unknown == {(None,)}
    found = set(database.execute(f"SELECT run_id, program FROM {view}"))
    assert found == {("r", "cron.py")} | ({(None, None)} if view == "timeline" else set())


@pytest.mark.parametrize("view", ["recent", "errors", "timeline"])
def test_looking_up_the_program_costs_the_same_in_a_full_ring(database, view):
    """The newest 20 take as many steps of SQLite among ten thousand traces and a thousand runs as among hundreds."""

    def steps() -> int:
        done = 0

        def count() -> int:
            nonlocal done
            done += 1
            return 0

        database.set_progress_handler(count, 10)
        assert len(database.execute(f"SELECT * FROM {view} LIMIT 20").fetchall()) == 20
        database.set_progress_handler(None, 0)
        return done

    def fill(first: int, last: int) -> None:
        for number in range(first, last):
            record = TraceRecord(
                number,
                f"r{number % 1_000}",
                number,
                "t",
                None,
                "a.b",
                None,
                number,
                0,
                1.0,
                "timeout",
                None,
                1,
                b"[]",
                b"{}",
            )
            database.execute(rows.TRACES.insert, record)

    database.execute("BEGIN")
    for number in range(1_000):
        begin(database, f"r{number}", number, "hearthnet", "node")
    fill(20, 400)
    few = steps()
    fill(400, 10_000)

    assert steps() <= 1.5 * few


def test_runs_follow_those_of_the_same_program(database):
    """The time between two runs of the node leaves cron jobs out, and theirs the node."""
    begin(database, "n1", 0, "hearthnet", "node", 100)
    begin(database, "c1", 50, "cron.py", "library", 51)
    begin(database, "n2", 110, "python", "node", 200, boot="b2")
    begin(database, "c2", 150, "cron.py", "library", 170, boot="b2")
    begin(database, "c3", 160, "cron.py", "library", boot="b2")
    begin(database, "w1", 165, "web.py", "library", boot="b2")

    found = database.execute("SELECT run_id, program, role, down_s, is_new_boot FROM run_history ORDER BY run_id")
    assert found.fetchall() == [
        ("c1", "cron.py", "library", None, None),
        ("c2", "cron.py", "library", 99.0, 1),
        ("c3", "cron.py", "library", 0.0, 0),
        ("n1", "hearthnet", "node", None, None),
        ("n2", "python", "node", 10.0, 1),
        ("w1", "web.py", "library", None, None),
    ]


def test_down_is_the_time_without_any_process(database):
    """A program was not down while a worker, or the one that started it, still ran; unknown without an end."""
    begin(database, "p1", 0, "web.py", "library", 100)
    begin(database, "w1", 10, "web.py", "library", 130)
    begin(database, "w2", 20, "web.py", "library", 30)
    begin(database, "w3", 120, "web.py", "library", 125)
    begin(database, "p2", 150, "web.py", "library", 160)
    begin(database, "p3", 200, "web.py", "library")
    begin(database, "w4", 210, "web.py", "library", 220)
    begin(database, "w5", 230, "web.py", "library", 240)

    found = database.execute("SELECT run_id, down_s FROM run_history ORDER BY ts").fetchall()

    assert found == [
        ("p1", None), ("w1", 0.0), ("w2", 0.0), ("w3", 0.0), ("p2", 20.0), ("p3", 40.0), ("w4", None), ("w5", None)
    ]  # fmt: skip


def test_runs_of_older_versions_have_a_role(tmp_path):
    """In a database of schema 5 a run with a node id was the node's; its program is unknown."""
    path = tmp_path / "telemetry.db"
    with closing(sqlite3.connect(path)) as connection:
        for file in sorted((migrations_dir() / TELEMETRY.name).glob("000[1-5]_*.sql")):
            connection.executescript(file.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {TELEMETRY.application_id}")
        connection.execute("PRAGMA user_version = 5")
        insert = "INSERT INTO runs (run_id, node_id, version, pid, started_us) VALUES (?, ?, '1', 1, 1)"
        connection.executemany(insert, [("a", "ed25519:n"), ("b", None)])
        connection.commit()

    with closing(open_database(path, TELEMETRY)) as connection:
        found = connection.execute("SELECT run_id, program, role FROM run_history ORDER BY run_id").fetchall()
    assert found == [("a", None, "node"), ("b", None, "library")]
