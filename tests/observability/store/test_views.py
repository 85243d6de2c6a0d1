"""The views, each compared with figures counted by hand."""

from __future__ import annotations

import pytest
from support.records import a_log

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.record import TraceRecord
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

    assert found == [(1, "1970-01-01T00:00:01.002Z", "t1", "a.b", "load", 1_001_500, 2.5, "ok", '{"n":1}')]


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


@pytest.mark.parametrize("view", ["recent", "spans", "errors", "capability_stats", "slow", "timeline"])
def test_every_view_has_a_readable_time(database, view):
    """Each view has `ts`, ISO 8601 UTC, in every row."""
    stamps = [row[0] for row in database.execute(f"SELECT ts FROM {view}")]

    assert stamps
    assert all(len(stamp) == 24 and stamp.endswith("Z") for stamp in stamps)
