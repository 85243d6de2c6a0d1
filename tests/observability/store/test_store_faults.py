"""Faults of other processes, clocks and programs, and how the store must behave."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from support import forkserver
from support.longer import few
from support.reading import log_lines, log_messages, metric
from support.recorded import record, record_large
from support.waiting import nothing_happens, wait_until

from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store import pacer
from hearthnet.observability.store.budget import Budget, disk_bytes
from hearthnet.observability.store.pacer import Pace
from hearthnet.observability.store.recovery.quarantine import quarantined
from hearthnet.observability.telemetry import DATABASE


@contextmanager
def holding(path, sql):
    """Holds a transaction open on another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in sql:
            other.execute(statement).fetchall()
        yield other


# --- other processes


def test_lock_costs_nothing(observability, query):
    """While another process holds the database, no caller waits, retries slow down, and all is stored afterwards.

    `scripts/soak lock` does it for half a minute.
    """

    def failures() -> float:
        return metric('hearthnet_telemetry_flush_failures_total{reason="locked"}')

    with telemetry.open(observability) as t:
        record(10)
        assert t.flush()
        with holding(observability.data_dir / DATABASE, ["BEGIN IMMEDIATE"]) as other:
            for number in range(1, 5):
                record(20)  # returns while the lock is held, so it does not wait for it
                wait_until(lambda number=number: failures() >= number)
            assert t._thread.pacer.retry_s >= 2**3 * pacer.FIRST_RETRY_S
            assert t.error == "locked"
            assert len(trace.get_recent(10)) == 10
            other.execute("ROLLBACK")
        assert t.flush(20)

    assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(90, 90)]
    assert log_messages(observability.log_dir).count("telemetry cannot be written") == 1


def test_lasting_lock_drops_the_oldest_and_logs(observability, query, monkeypatch):
    """A full buffer drops the oldest records; they are counted, logged, and a row in `gaps`."""
    from hearthnet.observability.records import recorder

    monkeypatch.setattr(recorder, "STORE_TRACES", 500)
    with telemetry.open(observability) as t:
        with holding(observability.data_dir / DATABASE, ["BEGIN IMMEDIATE"]) as other:
            record(1_700)
            t.flush(0.5)
            other.execute("ROLLBACK")
        assert t.flush(20)
        lost = metric('hearthnet_telemetry_dropped_total{reason="buffer_full"}')

    assert query("SELECT count(*) FROM traces") == [(1_700 - lost,)]
    assert query("SELECT sum(count) FROM gaps WHERE reason = 'buffer_full'") == [(lost,)]
    assert lost >= 1_200


def test_reader_in_a_long_transaction_cannot_grow_the_wal_beyond_its_cap(observability, query):
    """A reader pins the WAL: it stops at its cap, writing pauses, logs the holder, resumes, and the WAL shrinks."""
    small = observability.model_copy(update={"max_disk_mb": 64})
    wal = small.data_dir / f"{DATABASE}-wal"
    budget = Budget(64)
    with telemetry.open(small) as t:
        record(10)
        assert t.flush()
        command = [sys.executable, "-c", READER.format(path=str(small.data_dir / DATABASE))]
        reader = forkserver.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert reader.stdout.readline() == "10\n"
        largest = recorded = 0
        while t.error != "wal_pinned":
            record_large(20)
            recorded += 20
            t.flush(1)
            largest = max(largest, wal.stat().st_size)
            assert recorded < 10_000
        for _ in range(5):
            record(20)
            recorded += 20
            t.flush(0.3)
            largest = max(largest, wal.stat().st_size)
        reader.communicate("done\n")
        assert t.flush(20)
        assert t.error is None
        record(1)
        assert t.flush()
        assert wal.stat().st_size <= budget.wal + 1_000_000

    assert budget.wal < largest <= budget.wal_pinned
    assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(recorded + 11, recorded + 11)]
    (paused,) = [line for line in log_lines(small.log_dir) if line["msg"] == "telemetry cannot be written"]
    assert paused["reason"] == "wal_pinned"
    assert f"({reader.pid})" in paused["held_by"][0]


READER = """
import sqlite3
connection = sqlite3.connect({path!r}, isolation_level=None)
connection.execute("BEGIN")
print(connection.execute("SELECT count(*) FROM traces").fetchone()[0], flush=True)
input()
"""


def test_fork_and_multiprocessing_do_no_harm(observability, query):
    """Children that record, by fork and by a pool, commit as runs of their own; nobody's rows are lost or doubled."""
    with telemetry.open(observability) as t:
        record(10)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(_in_child, range(4)) == [5] * 4
        record(10)
        assert t.flush()

    assert query("SELECT count(*) FROM traces WHERE capability <> 'in.child'") == [(20,)]
    with telemetry.open(observability):  # whatever a child was ended with
        pass
    in_child = "SELECT count(*), count(DISTINCT run_id || '/' || number) FROM traces WHERE capability = 'in.child'"
    assert query(in_child) == [(20, 20)]
    assert query("PRAGMA integrity_check") == [("ok",)]


def _in_child(_: int) -> int:
    before = _own()
    record(5, "in.child")
    return _own() - before


def _own() -> int:
    return sum(item.run_id == runtime.recorder.run_id for item in trace.get_recent())


# --- the program


@pytest.mark.parametrize("node_id", [None, "ed25519:me"])
def test_exit_without_clean_up_loses_nothing(observability, query, node_id):
    """`os._exit` during work is like a kill: the next start recovers everything; what a small box lacks is counted."""
    script = f"""
import os
import re
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
config = ObservabilityConfig(data_dir=Path({str(observability.data_dir)!r}), log_dir=None)
telemetry.open(config, node_id={node_id!r}).start()
for _ in range(3000):
    with trace.new_trace("a.b"):
        pass
os._exit(7)
"""
    assert forkserver.run([sys.executable, "-c", script]).returncode == 7
    with telemetry.open(observability):
        ((stored,),) = query("SELECT count(*) FROM traces")
        ((lost,),) = query("SELECT ifnull(sum(count), 0) FROM gaps WHERE reason = 'killed'")
        assert stored + lost == 3_000
        assert node_id is None or not lost


def test_asyncio_run_that_ends_with_rows_pending_loses_nothing(observability, query):
    """A program whose loop ends, without closing telemetry, has its rows committed at exit."""
    script = f"""
import asyncio
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
async def main():
    telemetry.open(ObservabilityConfig(data_dir=Path({str(observability.data_dir)!r}), log_dir=None)).start()
    for _ in range(500):
        with trace.new_trace("a.b"):
            await asyncio.sleep(0)
asyncio.run(main())
"""
    forkserver.run([sys.executable, "-c", script], check=True)

    assert query("SELECT count(*) FROM traces") == [(500,)]
    assert query("SELECT end_reason FROM runs") == [("clean",)]


def test_blocked_loop_does_not_stop_the_commits(observability, query):
    """Traces of a program that never yields to its loop are committed."""

    async def program():
        async with telemetry.open(observability):
            record(5)
            wait_until(lambda: query("SELECT count(*) FROM traces") == [(5,)])  # never yields to the loop

    asyncio.run(program())


def test_storm_of_exceptions_is_bounded_and_true(observability, query):
    """While four threads fail as fast as they can, the ring keeps the share of each class, and the numbers add up."""

    def fail():
        for _ in range(2_000):
            with trace.new_trace("bad.one") as started:
                try:
                    raise ValueError("x" * 100)
                except ValueError:
                    get_logger("hearthnet.x").exception("it failed")
                started.fail("internal_error")

    with telemetry.open(observability) as t:
        record(3_000, "good.one")
        threads = [threading.Thread(target=fail) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert t.flush(30)
        lost = metric('hearthnet_telemetry_dropped_total{reason="buffer_full"}')
        commits = metric("hearthnet_telemetry_commits_total")

    ((stored,),) = query("SELECT count(*) FROM traces")
    assert stored >= min(10_000, 11_000 - lost)
    assert query("SELECT count(*) FROM errors LIMIT 1")[0][0] > 1_000
    assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(lost,)]
    assert commits < 1_000


def test_clock_that_steps_changes_no_order(observability, query, monkeypatch):
    """If the clock is set an hour back, ten years ahead, or to 1970, order and eviction follow the numbers."""
    from hearthnet.observability.traces import begin

    steps = [0, -3_600, 10 * 365 * 86_400, -time.time() + 60]
    with telemetry.open(observability) as t:
        for number, step in enumerate(steps):
            genuine = time.time_ns
            monkeypatch.setattr(begin, "time_ns", lambda step=step, now=genuine: int(now() + step * 1e9))
            record(100, f"step.n{number}")
        assert t.flush()
        assert [item.capability for item in trace.get_recent(400)] == [
            f"step.n{number}" for number in (3, 2, 1, 0) for _ in range(100)
        ]

    assert query("SELECT capability FROM recent LIMIT 1") == [("step.n3",)]
    assert all(item.duration_ms >= 0 for item in trace.get_recent(400))


def test_poison_row_costs_itself(observability, query):
    """A row that SQLite refuses is dropped and counted; the rest of its batch is stored."""
    with telemetry.open(observability) as t:
        record(3)
        t._recorder.record_trace(("X", None, "a.b", None, 2**70, 0, 1.0, "ok", None, 0, b"[]", b"{}"))
        record(3)
        assert t.flush()

    assert query("SELECT count(*) FROM traces") == [(6,)]
    assert query("SELECT reason, count FROM gaps") == [("poison", 1)]


# --- bounds


@pytest.fixture
def pauses(monkeypatch):
    """The timeouts of the telemetry thread's waits, in seconds."""
    found = []
    genuine = pacer.Pacer._wait_for_wake

    async def woken(self, timeout_s):
        found.append(timeout_s)
        await genuine(self, timeout_s)

    monkeypatch.setattr(pacer.Pacer, "_wait_for_wake", woken)
    return found


def test_idle_thread_sleeps(observability, query, pauses):
    """An idle thread is not woken; the next record is committed within the interval."""

    def is_asleep():
        seen = len(pauses)
        nothing_happens(0.05)  # a wake of the flush may be under way, and costs one more look
        return pauses and pauses[-1] == pacer._HOUSEKEEPING_S and len(pauses) == seen

    with telemetry.open(observability) as t:
        record(1)
        assert t.flush()
        wait_until(is_asleep, lambda: pauses)
        asleep = len(pauses)
        nothing_happens(0.3)
        assert len(pauses) == asleep
        record(1)
        wait_until(lambda: query("SELECT count(*) FROM traces") == [(2,)])
        wait_until(is_asleep, lambda: pauses)
        assert pauses[asleep] <= observability.flush_interval_s
        nothing_happens(0.3)
        assert len(pauses) <= asleep + 4


def test_hour_of_load_with_a_pinned_reader_stays_within_the_budget(observability):
    """In a storm of log records and large traces, with a pinned WAL, all files stay within max_disk_mb."""
    config = observability.model_copy(update={"max_disk_mb": 64, "flush_interval_s": 0.05})
    largest = 0
    with telemetry.open(config) as t:
        record(10)
        assert t.flush()
        with holding(config.data_dir / DATABASE, ["BEGIN", "SELECT count(*) FROM traces"]):
            for number in range(30):
                record_large(60, number)
                for _ in range(240):
                    get_logger("hearthnet.storm").warning("storm", extra={"text": "y" * 1_900, "n": number})
                t.flush(0.05)
                parts = disk_bytes(config.data_dir, config.log_dir)
                largest = max(largest, sum(parts.values()))
                assert sum(parts.values()) <= 64_000_000, parts
        assert t.flush(30)
        parts = disk_bytes(config.data_dir, config.log_dir)
        assert sum(parts.values()) <= 64_000_000, parts
    print(f"largest {largest / 1e6:.1f} MB of 64")


def test_page_ceiling_is_kept_by_giving_up_the_oldest(observability, query, keep_within):
    """With rows of the largest size in a small budget, the database stops at its ceiling and has the newest rows."""
    keep_within(16)
    with telemetry.open(observability) as t:
        for number in range(24):
            record_large(100, number)
            assert t.flush(), t.error
    path = observability.data_dir / DATABASE

    assert path.stat().st_size <= Budget(16).database
    assert query("SELECT extras ->> 'n' FROM traces ORDER BY seq DESC LIMIT 1") == [(23,)]
    assert 500 < query("SELECT count(*) FROM traces")[0][0] < 2_300


@pytest.mark.parametrize("rounds", few([6, 50], 6))
def test_flood_of_successes_and_flood_of_failures(observability, query, rounds):
    """Ten failures survive thousands of successes; after a flood of failures the newest 100 have the true rate."""
    with telemetry.open(observability) as t:
        record(10, "bad.one", fail="internal_error")
        for _ in range(rounds):
            record(2_000)
            t.flush()
        assert query("SELECT count(*) FROM traces WHERE capability = 'bad.one'") == [(10,)]
        for _ in range(3):
            record(1_200, "bad.two", fail="timeout")
            t.flush()
        for _ in range(25):
            record(3, "mixed.one")
            record(1, "mixed.one", fail="timeout")
        assert t.flush()

    newest = "SELECT result FROM traces ORDER BY seq DESC LIMIT 100"
    assert query(f"SELECT avg(result <> 'ok') FROM ({newest})") == [(0.25,)]
    assert query("SELECT count(*) FROM traces WHERE notable = 0")[0][0] >= 8_000
    assert query("SELECT count(*) FROM traces") == [(10_000,)]


def is_counted(folder) -> bool:
    """Returns whether the system counts what is written to a folder: it does not where that is in memory."""

    def written():
        with suppress(OSError):  # not Linux, or not permitted
            found = re.search(r"^write_bytes: (\d+)", Path("/proc/self/io").read_text("ascii"), re.MULTILINE)
            return int(found[1]) if found else 0
        return 0

    before = written()
    with (folder / "probe").open("wb") as file:
        file.write(bytes(100_000))
        file.flush()
        os.fsync(file.fileno())
    return written() > before


def test_wear_is_counted(observability, query, tmp_path):
    """Commits, fsyncs and bytes written are metrics, and columns of the run's row."""
    with telemetry.open(observability) as t:
        for _ in range(20):
            record(50)
            assert t.flush()
        commits = metric("hearthnet_telemetry_commits_total")
        written = metric("hearthnet_telemetry_disk_written_bytes_total")
        assert metric("hearthnet_telemetry_fsyncs_total") >= commits >= 20
        assert metric('hearthnet_telemetry_disk_bytes{part="database"}') > 1_000_000

    ((in_row, bytes_in_row),) = query("SELECT commits, written_bytes FROM runs")
    assert in_row >= commits
    assert bytes_in_row is None or bytes_in_row >= written
    assert bytes_in_row is None or written > 100_000 or not is_counted(tmp_path)


def test_eco_commits_rarely_and_failures_soon(observability, query, pauses, monkeypatch):
    """`eco` commits ordinary records every half minute, failures sooner."""
    assert (Pace(is_eco=True).commit_s, Pace(is_eco=True).gap_s) == (30.0, 5.0)
    monkeypatch.setattr(pacer, "_ECO_GAP_S", 0.2)
    with telemetry.open(observability.model_copy(update={"eco": True})):
        record(5)
        wait_until(lambda: 30.0 in pauses, lambda: pauses)
        assert query("SELECT count(*) FROM traces") == [(0,)]
        record(1, fail="timeout")
        wait_until(lambda: query("SELECT count(*) FROM traces") == [(6,)])
    assert quarantined(observability.data_dir / DATABASE) == []
