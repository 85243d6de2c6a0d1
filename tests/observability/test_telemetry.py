"""The store end to end, in process: opened, written from its thread, read, closed, reopened."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import stat
import subprocess
import sys
import threading

import orjson
import pytest
from support import forkserver
from support.reading import log_lines, metric, rows
from support.waiting import wait_until

from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.forensics.box import boxes_in
from hearthnet.observability import get_logger, metrics, telemetry, trace
from hearthnet.observability.records import recorder
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store import thread, writer
from hearthnet.observability.store.reader import TraceFilter
from hearthnet.observability.telemetry import DATABASE


def query(observability, sql, *values):
    """Runs a query as another process would."""
    return rows(observability.data_dir / DATABASE, sql, *values)


def record(count, capability="a.b", fail=None):
    """Records `count` traces."""
    for _ in range(count):
        started = trace.new_trace(capability)
        if fail:
            started.fail(fail)
        trace.detach()


def test_debug_mode_is_for_the_programs_own_loop(observability, monkeypatch):
    """Under `-X dev` asyncio warns of slow callbacks: a slow commit of ours is no matter of the program's."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    with telemetry.open(observability):
        loops = [found for found in gc.get_objects() if isinstance(found, asyncio.BaseEventLoop) and found.is_running()]
        assert [loop.get_debug() for loop in loops] == [False]


def test_traces_and_logs_are_in_sql(observability):
    """Records can be queried with plain SQL after a flush and after closing."""
    with telemetry.open(observability, node_id="ed25519:me") as t:
        with trace.new_trace("llm.chat@1.0") as started, trace.span("generate", model="tiny"):
            get_logger("hearthnet.test").warning("careful", extra={"n": 1})
        assert t.flush()
        assert query(observability, "SELECT trace_id, capability, version, result FROM traces") == [
            (started.trace_id, "llm.chat", "1.0", "ok")
        ]

    ((msg, level, trace_id, span_id, extras),) = query(
        observability, "SELECT msg, level, trace_id, span_id, extras FROM logs"
    )
    ((name, span, span_extras),) = query(observability, "SELECT name, id, extras FROM spans")
    assert (msg, level, trace_id, span_id) == ("careful", "warning", started.trace_id, span)
    assert orjson.loads(extras) == {"n": 1}
    assert (name, orjson.loads(span_extras)) == ("generate", {"model": "tiny"})
    ((run_id, node_id, pid, reason),) = query(observability, "SELECT run_id, node_id, pid, end_reason FROM runs")
    assert (run_id, node_id, pid, reason) == (t.run_id, "ed25519:me", os.getpid(), "clean")


async def test_async_with_serves_too(observability):
    """`async with` opens and closes without blocking the running loop."""
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    async with telemetry.open(observability):
        record(3)
    ticking.cancel()

    assert ticks > 3
    assert query(observability, "SELECT count(*) FROM traces") == [(3,)]


def test_get_recent_sees_what_is_not_committed(observability):
    """The newest trace is in `get_recent` at once, long before the next commit."""
    slow = observability.model_copy(update={"flush_interval_s": 60.0})
    with telemetry.open(slow):
        record(3, "first.three")
        record(2, "last.two")

        assert [item.capability for item in trace.get_recent(3)] == ["last.two", "last.two", "first.three"]
        assert query(slow, "SELECT count(*) FROM traces") == [(0,)]
    assert query(slow, "SELECT count(*) FROM traces") == [(5,)]


def test_failure_is_committed_at_once(observability):
    """A notable trace does not wait for the interval."""
    slow = observability.model_copy(update={"flush_interval_s": 60.0})
    with telemetry.open(slow):
        record(1, fail="internal_error")
        wait_until(lambda: query(slow, "SELECT count(*) FROM traces") == [(1,)], timeout_s=30)


def test_get_recent_is_complete_while_the_writer_commits(observability):
    """Under load every read is complete and without duplicates, over pending and committed records."""
    stop = threading.Event()
    seen: list[list[int]] = []
    with telemetry.open(observability):

        def read():
            while not stop.is_set():
                seen.append([item.as_dict()["number"] for item in trace.get_recent(200)])

        reader = threading.Thread(target=read)
        reader.start()
        record(3_000)
        stop.set()
        reader.join()

    assert seen
    for numbers in seen:
        assert len(set(numbers)) == len(numbers)
        assert numbers == sorted(numbers, reverse=True)
        if numbers:
            assert len(numbers) == min(200, numbers[0] - min(numbers) + 1)


def test_everything_is_there_after_a_restart(observability):
    """A second run continues the first: rows stay, `seq` keeps rising, and each is a row in `runs`."""
    with telemetry.open(observability):
        record(5)
        first = [item.trace_id for item in trace.get_recent()]
    with telemetry.open(observability) as t:
        assert [item.trace_id for item in trace.get_recent()] == first
        record(1, "second.life")
        assert t.flush()
        newest = trace.get_recent(1)[0]
        assert newest.seq > max(item.seq for item in trace.get_recent()[1:])

    assert query(observability, "SELECT count(*), count(DISTINCT seq) FROM traces") == [(6, 6)]
    assert query(observability, "SELECT count(DISTINCT run_id) FROM traces") == [(2,)]
    assert query(observability, "SELECT count(*) FROM runs WHERE end_reason = 'clean'") == [(2,)]


def test_ring_keeps_the_newest_and_the_file_is_flat(observability):
    """Of 25,000 traces the newest 10,000 are left, and a full ring's file does not grow."""
    sizes = []
    with telemetry.open(observability) as t:
        for _ in range(50):
            record(500)
            assert t.flush()
            sizes.append(query(observability, "SELECT page_count FROM pragma_page_count()")[0][0])
        newest = [item.trace_id for item in trace.get_recent(TRACE_RING_BUFFER)]

    assert query(observability, "SELECT count(*) FROM traces") == [(TRACE_RING_BUFFER,)]
    assert [row[0] for row in query(observability, "SELECT trace_id FROM traces ORDER BY seq DESC")] == newest
    full = sizes[21:]
    assert max(full) <= min(full) * 1.03


def test_flood_of_successes_leaves_the_failures(observability):
    """Ten failures survive 15,000 later successes."""
    with telemetry.open(observability) as t:
        record(10, "bad.one", fail="internal_error")
        for _ in range(15):
            record(1_000)
            assert t.flush()

    assert query(observability, "SELECT count(*) FROM errors WHERE kind = 'trace'") == [(10,)]
    assert query(observability, "SELECT count(*) FROM traces") == [(TRACE_RING_BUFFER,)]


def test_filters_agree_on_pending_and_committed(observability):
    """A filter selects the same committed and pending traces."""
    slow = observability.model_copy(update={"flush_interval_s": 60.0})
    with telemetry.open(slow) as t:
        for committed in (True, False):
            record(2, "good.one")
            record(1, "bad.one", fail="timeout")
            if committed:
                assert t.flush()
        wanted = {
            TraceFilter(capability="good.one"): 4,
            TraceFilter(result="timeout"): 2,
            TraceFilter(result="failed"): 2,
            TraceFilter(result="ok", capability="bad.one"): 0,
            TraceFilter(min_ms=60_000): 0,
            TraceFilter(since_us=0): 6,
            TraceFilter(since_us=2**62): 0,
            TraceFilter(until_us=0): 0,
            TraceFilter(until_us=2**62): 6,
            TraceFilter(since_us=0, until_us=2**62, capability="bad.one"): 2,
            TraceFilter(trace_id=trace.get_recent(1)[0].trace_id): 1,
            TraceFilter(trace_id=trace.get_recent(1)[0].trace_id[:6]): 6,
            TraceFilter(trace_id="7"): 0,
        }
        assert {key: len(t.find(100, key)) for key in wanted} == wanted


def test_overflow_is_counted_and_visible(observability, monkeypatch):
    """Records dropped from a full buffer are a row in `gaps`, a line in `timeline` and a count in the metrics."""
    monkeypatch.setattr(recorder, "STORE_TRACES", 100)
    slow = observability.model_copy(update={"flush_interval_s": 60.0})
    with telemetry.open(slow) as t:
        gate = threading.Event()
        # The telemetry thread's loop is blocked, as by a disk that hangs.
        t._thread.pacer.loop.call_soon_threadsafe(gate.wait)
        record(250)
        gate.set()
        assert t.flush()
        assert b'hearthnet_telemetry_dropped_total{reason="buffer_full"} 150.0' in metrics.exposition()[0]

    assert query(slow, "SELECT kind, reason, count FROM gaps") == [("trace", "buffer_full", 150)]
    assert query(slow, "SELECT text FROM timeline WHERE kind = 'gap'") == [("150 lost",)]
    assert query(slow, "SELECT count(*) FROM traces") == [(100,)]


def test_lock_of_another_process_loses_nothing(observability, monkeypatch):
    """While another connection holds the write lock the records wait, and are committed after it; this is told."""
    monkeypatch.setattr(writer, "_PATIENT_TRIES", 1)
    with telemetry.open(observability) as t:
        other = sqlite3.connect(observability.data_dir / DATABASE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        record(20)
        assert not t.flush(timeout_s=0.6)
        assert len(trace.get_recent()) == 20
        other.execute("ROLLBACK")
        other.close()
        assert t.flush()

    assert query(observability, "SELECT count(*), count(DISTINCT trace_id) FROM traces") == [(20, 20)]
    messages = [row[0] for row in query(observability, "SELECT msg FROM logs ORDER BY seq")]
    assert messages == ["telemetry cannot be written", "telemetry is written again"]


def test_commits_continue_while_the_loop_is_blocked(observability):
    """A program that blocks its own event loop does not keep its records from being committed."""

    async def program():
        async with telemetry.open(observability):
            record(5, fail="internal_error")
            wait_until(
                lambda: query(observability, "SELECT count(*) FROM traces") == [(5,)]
            )  # never yields to the loop

    asyncio.run(program())


def test_second_process_commits_for_itself(observability):
    """A second process of a store has its records in SQL within two commit intervals, while both run."""
    script = f"""
import sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
config = ObservabilityConfig(data_dir=Path({str(observability.data_dir)!r}), log_dir=None)
with telemetry.open(config) as t:
    with trace.new_trace("of.second"):
        pass
    print(t.error, len(trace.get_recent()), flush=True)
    sys.stdin.read()
"""
    of_second = "SELECT count(*), count(DISTINCT run_id) FROM traces WHERE capability = 'of.second'"
    with telemetry.open(observability) as t:
        record(1)
        assert t.flush()
        second = forkserver.spawn(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert second.stdout.readline() == "None 2\n"
        wait_until(lambda: query(observability, of_second) == [(1, 1)])
        record(1)
        assert t.flush()
        assert len(trace.get_recent()) == 3
        second.communicate()

    assert second.returncode == 0
    assert query(observability, "SELECT count(*), count(DISTINCT seq), count(DISTINCT run_id) FROM traces") == [
        (3, 3, 2)
    ]
    assert query(observability, "SELECT end_reason, count(*) FROM runs GROUP BY 1") == [("clean", 2)]


def test_directory_that_cannot_be_made_leaves_memory(observability, tmp_path):
    """If the data folder cannot be created, the program runs and records in memory."""
    (tmp_path / "file").write_text("")
    with telemetry.open(observability.model_copy(update={"data_dir": tmp_path / "file" / "data"})) as t:
        record(1)
        assert "cannot be written" in t.error
        assert len(trace.get_recent()) == 1


def test_program_that_never_closes_loses_nothing(observability):
    """A program that ends without closing, or with an exception, still commits everything and exits."""
    script = f"""
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
config = ObservabilityConfig(data_dir=Path({str(observability.data_dir)!r}), log_dir=None, flush_interval_s=60)
t = telemetry.open(config)
t.start()
for _ in range(100):
    with trace.new_trace("a.b"):
        pass
raise RuntimeError("the end")
"""
    done = forkserver.run([sys.executable, "-c", script])

    assert done.returncode == 1
    assert "the end" in done.stderr
    assert query(observability, "SELECT count(*) FROM traces") == [(100,)]
    assert query(observability, "SELECT end_reason FROM runs") == [("clean",)]


def test_files_are_private_under_any_umask(observability):
    """Database, WAL, shared memory and lock have mode 0600, their folder 0700."""
    previous = os.umask(0o002)
    try:
        with telemetry.open(observability):
            record(1)
            trace.get_recent()
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in observability.data_dir.iterdir()}
    finally:
        os.umask(previous)

    box = f"telemetry.{os.getpid()}.box2"
    assert set(modes) == {"telemetry.db", "telemetry.db-wal", "telemetry.db-shm", "telemetry.lock", box}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(observability.data_dir.stat().st_mode) == 0o700


def test_clean_stop_leaves_one_file(observability):
    """Closing leaves no WAL: the database file is complete."""
    with telemetry.open(observability):
        record(10)
        trace.get_recent()

    assert sorted(path.name for path in observability.data_dir.iterdir()) == ["telemetry.db", "telemetry.lock"]


def test_close_is_idempotent_and_ends_recording(observability):
    """Closing twice is harmless; later records stay in memory, and the store is still read."""
    t = telemetry.open(observability)
    with t:
        record(1)
    t.close()
    record(1, "after.close")

    assert [item.capability for item in trace.get_recent()] == ["after.close", "a.b"]
    assert query(observability, "SELECT count(*) FROM traces") == [(1,)]


def test_done_line_is_not_stored_twice(observability):
    """The "done" line of a trace is in the JSON log only; the store has its row instead."""
    with telemetry.open(observability):
        record(3)

    assert query(observability, "SELECT count(*) FROM logs") == [(0,)]
    assert (next(observability.log_dir.glob("*.log"))).read_bytes().count(b'"msg":"done"') == 3


def test_forked_child_keeps_out_of_the_store(observability):
    """A forked child records in its own memory: none of it reaches its parent's buffer or file."""
    with telemetry.open(observability) as t:
        record(1)
        child = os.fork()
        if child == 0:
            record(5, "in.child")
            os._exit(0 if len(trace.get_recent(100)) >= 5 else 1)
        assert os.waitpid(child, 0)[1] == 0
        record(1)
        assert t.flush()

    assert query(observability, "SELECT count(*) FROM traces") == [(2,)]


def test_row_that_sqlite_refuses_costs_only_itself(observability):
    """A record that cannot be stored is counted as a gap; the records around it are committed."""
    with telemetry.open(observability) as t:
        record(3)
        runtime.recorder.record_trace(_poisoned(trace.get_recent(1)[0]))
        record(2)
        assert t.flush()
        record(1)
        assert t.flush()

    assert query(observability, "SELECT count(*) FROM traces") == [(6,)]
    assert query(observability, "SELECT kind, reason, count FROM gaps") == [("trace", "poison", 1)]


def _poisoned(like):
    """A record that SQLite cannot bind: an integer of more than 64 bits."""
    return (like.trace_id, None, "a.b", None, 2**70, 0, 1.0, "ok", None, 0, b"[]", b"{}")


def test_close_under_load_is_in_time_and_complete(observability):
    """While threads keep recording, close returns within its two seconds, and the run is marked clean."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            record(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    with telemetry.open(observability):
        for thread in threads:
            thread.start()
        record(100, "before.close")
    stop.set()
    for thread in threads:
        thread.join()

    assert not (observability.data_dir / "telemetry.db-wal").exists()
    assert query(observability, "SELECT end_reason FROM runs") == [("clean",)]
    assert query(observability, "SELECT count(*) FROM traces WHERE capability = 'before.close'") == [(100,)]


def test_second_opening_in_one_process_is_refused(observability, tmp_path):
    """The instruments have one destination: opening twice is an error, and the first stays open."""
    other = observability.model_copy(update={"data_dir": tmp_path / "other"})
    first = telemetry.open(observability)
    with first:
        with pytest.raises(RuntimeError, match=r"open already, in .*: .*keep_open") as raised:
            telemetry.open(other).start()
        assert str(observability.data_dir) in str(raised.value)
        record(1)
    with pytest.raises(RuntimeError, match="make a new one"):
        first.start()

    assert query(observability, "SELECT count(*) FROM traces") == [(1,)]


def test_trace_that_began_before_opening_belongs_to_the_run_it_ends_in(observability):
    """Every row's run is in `runs`."""
    trace.new_trace("early.bird")
    with telemetry.open(observability):
        trace.detach()

    assert query(observability, "SELECT count(*) FROM traces JOIN runs USING (run_id)") == [(1,)]


def test_trace_that_has_not_ended_when_telemetry_closes_is_interrupted(observability):
    """As of a program that is killed: with the step that it was in. Its own end, in a later run even, is no second."""
    for _ in range(2):
        with telemetry.open(observability):
            left = trace.new_trace("left.behind")
            trace.span("step").__enter__()
            trace.attach(None)
            record(1)
            trace.attach(left)
        with telemetry.open(observability):
            trace.detach()
    left.fail("timeout")
    left.end()

    found = query(observability, "SELECT capability, result, error, spans ->> '$[0].status' FROM traces ORDER BY seq")
    assert found == 2 * [
        ("a.b", "ok", None, None),
        ("left.behind", "interrupted", "its run ended while it was in step", "open"),
    ]
    assert query(observability, "SELECT DISTINCT end_reason FROM runs") == [("clean",)]


def close_while_locked(observability) -> list[tuple[int, bool]]:
    """Records twenty traces and closes while another process holds the database; returns the log lines about it."""
    with telemetry.open(observability) as opened:
        other = sqlite3.connect(observability.data_dir / DATABASE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        record(20)
    opened._thread._thread.join(60)  # on a busy machine it may still be trying
    other.execute("ROLLBACK")
    other.close()
    assert len(trace.get_recent()) == 20
    assert query(observability, "SELECT ended_us FROM runs") == [(None,)]
    told = [line for line in log_lines(observability.log_dir) if line["msg"] == "records were not committed"]
    return [(line["traces"], line["in_black_box"]) for line in told]


def test_records_that_closing_could_not_commit_are_in_the_box(observability):
    """If another process holds the database until the end, pending records are kept in memory and in the box."""
    assert close_while_locked(observability) == [(20, True)]
    assert metric('hearthnet_telemetry_dropped_total{reason="closed"}') == 0
    assert len(boxes_in(observability.data_dir)) == 1  # for the start after this process


def test_records_that_closing_could_not_commit_are_counted_without_a_box(observability, monkeypatch):
    """Without a box they are dropped from the store, and counted."""

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(thread, "BlackBox", refuse)

    assert close_while_locked(observability) == [(20, False)]
    assert metric('hearthnet_telemetry_dropped_total{reason="closed"}') == 20


def test_close_stores_the_count_of_what_was_held_back(observability):
    """After a storm just before closing, the rows account for every record, although no summary was logged before."""
    with telemetry.open(observability):
        for _ in range(500):
            get_logger("hearthnet.test").info("storm")

    assert query(observability, "SELECT sum(1 + repeats) FROM logs WHERE msg = 'storm'") == [(500,)]


NEVER_ENTERED = """
from hearthnet import telemetry, trace

kept = telemetry.open("store")
{}
with trace("work"):
    pass
"""


@pytest.mark.parametrize("entered", ["", "kept.start()"])
def test_telemetry_that_is_never_entered_warns_at_the_end(tmp_path, entered):
    """A program that keeps what `open` returned, and forgets the block, is told of it by Python's warning, once."""
    program = [sys.executable, "-c", NEVER_ENTERED.format(entered)]
    said = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stderr

    assert said.count("RuntimeWarning: telemetry.open() was not entered") == (entered == "")


def test_telemetry_that_is_dropped_warns_where_it_was(tmp_path):
    """As a call whose value is not used; what fails, or is started, warns of nothing."""
    with pytest.warns(RuntimeWarning, match="was not entered") as found:
        telemetry.open(tmp_path)
    assert [warning.filename for warning in found] == [__file__]
    with pytest.raises(ValueError, match="console"):
        telemetry.open(tmp_path, console="loud")
    with telemetry.open(tmp_path), pytest.raises(RuntimeError, match="open already"):
        telemetry.open(tmp_path).start()
