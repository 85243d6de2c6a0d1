"""Telemetry's own health on the metrics page: the store's lag, and records dropped by sampling."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
from support.log_clock import set_log_clock
from support.reading import sample

from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logs import messages
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.metrics_bridge import MetricsBridge

log = get_logger("hearthnet.test")
NS = 1_000_000_000
US = 1_000_000


def a_trace(started_ns: int, ms: float) -> tuple:
    """Returns a trace's fields."""
    return (0, "r", 1, "t", None, "a.b", None, 0, started_ns, ms, "ok", None, 0, b"[]", b"{}")


def a_record(ts_us: int) -> tuple:
    """Returns a log record's fields."""
    return (0, "r", 2, ts_us, "info", "x", "m", None, None, 0, 0, b"{}", None)


@pytest.fixture
def recorder():
    """A recorder that a writer empties, created at 100 s of the monotonic clock."""
    made = Recorder("r", wake=lambda *_: None)
    made._made_ns = 100 * NS
    return made


def test_nothing_that_waits_is_no_lag(recorder):
    """An empty buffer has no lag."""
    assert recorder.lag_s(500 * NS, 500 * US) == 0


def test_lag_is_that_of_the_oldest(recorder):
    """The age of a trace counts from its end, that of a log record from its time, until it is committed."""
    recorder.traces.offer(a_trace(110 * NS, 2_000.0))
    recorder.traces.offer(a_trace(119 * NS, 0.0))
    assert recorder.lag_s(120 * NS, 1_000 * US) == pytest.approx(8)
    recorder.logs.offer(a_record(991 * US))
    assert recorder.lag_s(120 * NS, 1_000 * US) == pytest.approx(9)

    recorder.traces.take(10)
    recorder.logs.take(10)
    assert recorder.lag_s(121 * NS, 1_001 * US) == pytest.approx(10)
    recorder.traces.confirm()
    recorder.logs.confirm()
    assert recorder.lag_s(121 * NS, 1_001 * US) == 0


@pytest.mark.parametrize(("step_s", "expected"), [(-3_600, 0.0), (3_600, 20.0)])
def test_step_of_the_clock_makes_no_impossible_lag(recorder, step_s, expected):
    """If the clock is set back, the lag is not negative; if set forward, it is at most the recorder's age."""
    recorder.logs.offer(a_record(10_000 * US))

    assert recorder.lag_s(120 * NS, (10_000 + step_s) * US) == expected


def test_step_of_the_clock_leaves_traces_alone(recorder):
    """The lag of traces follows the monotonic clock."""
    recorder.traces.offer(a_trace(118 * NS, 1_000.0))

    assert recorder.lag_s(120 * NS, 0) == recorder.lag_s(120 * NS, 10**15) == pytest.approx(1)


def test_memory_alone_has_no_lag():
    """Without a writer the records stay in the buffers, and there is no lag."""
    recorder = Recorder("r")
    recorder.traces.offer(a_trace(0, 0.0))

    assert recorder.lag_s(500 * NS, 500 * US) == 0


def test_lag_of_a_store_that_is_held(observability):
    """While another process holds the database the lag rises; once committed it is 0."""
    with telemetry.open(observability) as t:
        assert t.flush()
        assert sample("hearthnet_telemetry_lag_seconds") == 0
        with closing(sqlite3.connect(observability.data_dir / "telemetry.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with trace.new_trace("a.b"):
                pass
            first = sample("hearthnet_telemetry_lag_seconds")
            second = sample("hearthnet_telemetry_lag_seconds")
            holder.execute("ROLLBACK")
        assert 0 < first < second
        assert t.flush()
        assert sample("hearthnet_telemetry_lag_seconds") == 0


def test_records_that_sampling_held_back_are_counted(observability, monkeypatch):
    """The counter equals the rows' `repeats` by level, also when the page is read twice."""
    set_log_clock(monkeypatch, lambda: 1_790_000_000_000_000_000)
    with telemetry.open(observability):
        for _ in range(messages.ROWS_A_SECOND + 30):
            log.info("again")
        for _ in range(messages.NOTABLE_ROWS_A_SECOND + 7):
            log.warning("beware")
        node_logging.log_dropped(all_of_them=True)

        for _ in range(2):
            assert sample("hearthnet_log_repeats_total", level="info") == 30
            assert sample("hearthnet_log_repeats_total", level="warning") == 7
        stored = runtime.recorder.pending_logs()
        assert all(record.msg in ("again", "beware") for record in stored if record.repeats)


def test_two_scrapes_at_once_count_once():
    """A server with threads may be asked twice at a time: what is new is added by one of them."""
    bridge, counted = MetricsBridge(), []
    adding, go_on = threading.Event(), threading.Event()

    def add(more):
        if not adding.is_set():
            adding.set()
            go_on.wait(20)
        counted.append(more)

    first = threading.Thread(target=bridge._raise_to, args=("repeats", 30, add))
    first.start()
    assert adding.wait(20)
    bridge._raise_to("repeats", 31, add)
    go_on.set()
    first.join(20)

    assert sorted(counted) == [1, 30]


def test_repeats_of_a_store_opened_again_are_not_counted_twice(observability, monkeypatch):
    """The counter belongs to the process: reopening adds only new repeats."""
    set_log_clock(monkeypatch, lambda: 1_790_000_000_000_000_000)
    for expected in (5, 10):
        with telemetry.open(observability):
            for _ in range(messages.ROWS_A_SECOND + 5):
                log.info("again")
            node_logging.log_dropped(all_of_them=True)
            assert sample("hearthnet_log_repeats_total", level="info") == expected


def test_what_a_trace_kept_is_not_held_back(observability, monkeypatch):
    """A record that is stored because its trace failed is not a repeat."""
    set_log_clock(monkeypatch, lambda: 1_790_000_000_000_000_000)
    with telemetry.open(observability):
        with trace.new_trace("a.b") as failing:
            for _ in range(messages.ROWS_A_SECOND + 5):
                log.info("inside")
            failing.fail("internal_error")
        node_logging.log_dropped(all_of_them=True)

        assert not sample("hearthnet_log_repeats_total", level="info")
