"""Faults of disk, other processes, clocks and programs, and how the store must behave."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from support import forkserver, vfs
from support.longer import few
from support.reading import log_lines, metric, rows
from support.waiting import nothing_happens, wait_until

from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store import pacer
from hearthnet.observability.store.budget import Budget, disk_bytes
from hearthnet.observability.store.pacer import Pace
from hearthnet.observability.store.recovery.quarantine import quarantined
from hearthnet.observability.telemetry import DATABASE


def record(count, capability="a.b", fail=None):
    """Records `count` traces."""
    for _ in range(count):
        started = trace.new_trace(capability)
        if fail:
            started.fail(fail)
        trace.detach()


def record_large(count, n=0):
    """Records traces whose rows are nearly of the largest size."""
    for _ in range(count):
        with trace.new_trace("large.one") as started:
            started.extras["n"] = n
            for _ in range(4):
                with trace.span("part", text="x" * 1_100):
                    pass


@pytest.fixture
def query(observability):
    """Runs a query as another process would."""
    return partial(rows, observability.data_dir / DATABASE)


def log_messages(observability) -> list[str]:
    """Returns the messages of the JSON log without those of traces."""
    return [line["msg"] for line in log_lines(observability.log_dir) if line["msg"] != "done"]


@contextmanager
def holding(path, sql):
    """Holds a transaction open on another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in sql:
            other.execute(statement).fetchall()
        yield other


@contextmanager
def full(directory):
    """Fills the disk to the last byte."""
    filler = directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4_096, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
        yield
    finally:
        filler.unlink()


@pytest.fixture
def on_tiny_disk(observability, tiny_disk):
    """Settings of a store on a small disk of its own; the floor is 5 % of it."""
    return observability.model_copy(
        update={"data_dir": tiny_disk / "data", "log_dir": tiny_disk / "logs", "max_disk_mb": 64}
    )


# --- the disk


def test_young_ring_keeps_committing_on_a_full_disk(on_tiny_disk):
    """A new database has reserved its space: on a full disk traces are still committed."""
    with telemetry.open(on_tiny_disk) as t:
        record(10)
        assert t.flush()
        with full(on_tiny_disk.data_dir):
            for _ in range(50):
                record(100, "on.full.disk")
                assert t.flush(), t.error
        path = on_tiny_disk.data_dir / DATABASE
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM traces").fetchone() == (5_010,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# A node's database has space to spare from its first day; a program's has pages that are full.
@pytest.mark.parametrize(("node_id", "least"), [("ed25519:me", 10_000), (None, 7_500)])
def test_full_ring_is_replaced_in_place_on_a_full_disk(on_tiny_disk, node_id, least):
    """Of ten thousand more traces on a full disk the newest are stored, the file does not grow, nothing is dropped."""
    with telemetry.open(on_tiny_disk, node_id=node_id) as t:
        for _ in range(12):
            record(1_000)
            assert t.flush()
        path = on_tiny_disk.data_dir / DATABASE
        size = path.stat().st_size
        with full(on_tiny_disk.data_dir):
            for _ in range(40):
                record(250, "on.full.disk")
                assert t.flush(), t.error
            assert path.stat().st_size == size
            with closing(sqlite3.connect(path)) as connection:
                ((count,),) = connection.execute("SELECT count(*) FROM traces WHERE capability = 'on.full.disk'")
                assert connection.execute("SELECT count(*) FROM gaps").fetchone() == (0,)
        assert least <= count <= 10_000


def test_rows_that_do_not_fit_a_full_disk_push_out_the_oldest(on_tiny_disk):
    """If large rows need more space than there is, the oldest are evicted and the newest stored."""
    with telemetry.open(on_tiny_disk, node_id="ed25519:me") as t:
        with full(on_tiny_disk.data_dir):
            for number in range(45):
                record_large(100, number)
                assert t.flush(), t.error
        with closing(sqlite3.connect(on_tiny_disk.data_dir / DATABASE)) as connection:
            assert connection.execute("SELECT extras ->> 'n' FROM traces ORDER BY seq DESC LIMIT 1").fetchone() == (44,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert t._thread.is_clean


def test_nearly_full_disk_is_logged_and_counted_until_it_ends(on_tiny_disk):
    """Below the floor the JSON log drops records below warning, and this is logged; with space again it ends."""
    with telemetry.open(on_tiny_disk) as t:
        with full(on_tiny_disk.data_dir):
            record(5)
            assert t.flush()
            record(5)
            assert metric('hearthnet_telemetry_dropped_total{reason="log_shed"}') > 0
        record(5)
        assert t.flush()
        record(5, "after.it")
        assert t.flush()
        with closing(sqlite3.connect(on_tiny_disk.data_dir / DATABASE)) as connection:
            assert connection.execute("SELECT count(*) FROM traces").fetchone() == (20,)

    messages = log_messages(on_tiny_disk)
    assert messages[-1] == "the disk has space again"
    lines = b"".join(path.read_bytes() for path in on_tiny_disk.log_dir.glob("*.log"))
    assert lines.count(b"after.it") == 5


def test_disk_that_is_full_at_the_first_start_leaves_memory_and_is_tried_again(on_tiny_disk):
    """Without space no file can be created: records stay in memory, and are stored as soon as there is space."""
    on_tiny_disk.data_dir.mkdir()
    with telemetry_on_full_disk(on_tiny_disk) as t:
        record(30)
        wait_until(lambda: t.flush(0.5), lambda: t.error)
        assert t.error is None
        with closing(sqlite3.connect(on_tiny_disk.data_dir / DATABASE)) as connection:
            assert connection.execute("SELECT count(*), count(DISTINCT seq) FROM traces").fetchone() == (50, 50)


@contextmanager
def telemetry_on_full_disk(config):
    """Telemetry opened on a full disk, with 20 traces recorded there."""
    t = telemetry.open(config)
    with full(config.data_dir):
        t.start()
        assert t.error
        record(20)
        assert len(trace.get_recent()) == 20
    try:
        yield t
    finally:
        t.close()


@pytest.mark.skipif(bool(vfs.UNAVAILABLE), reason=vfs.UNAVAILABLE or "there is one")
@pytest.mark.parametrize("fault", ["io_error", "disk_full"])
def test_disk_that_refuses_to_write_is_survived(observability, fault):
    """If every write or sync fails, or every one that needs space, recording continues, logs once, and recovers."""
    with vfs.installed() as disk, telemetry.open(observability) as t:
        record(5)
        assert t.flush()
        with getattr(disk, fault)():
            for _ in range(3):
                record(5)
                t.flush(0.5)
            assert len(trace.get_recent(100)) == 20
            assert (t.error is None) == (fault == "disk_full")  # replacing rows in place needs no space
        assert t.flush(40)
        assert t.error is None
        assert len(trace.get_recent(100)) == 20
    assert log_messages(observability).count("telemetry cannot be written") == (fault == "io_error")


@pytest.mark.skipif(bool(vfs.UNAVAILABLE), reason=vfs.UNAVAILABLE or "there is one")
@pytest.mark.parametrize("number", range(1, 12))
def test_any_single_write_may_fail(observability, query, number):
    """If any one write of a commit fails, all records are stored in the end, once."""
    with vfs.installed() as disk, telemetry.open(observability) as t:
        record(5)
        assert t.flush()
        with disk.nth_fails(number, vfs.Kind.WRITE):
            record(300)
            t.flush(1)
        assert t.flush(40)

    assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(305, 305)]
    assert query("PRAGMA integrity_check") == [("ok",)]


def test_directory_that_is_removed_is_made_again(observability, query):
    """If the data folder is removed, the next commit makes a new store with all records of this run."""
    with telemetry.open(observability) as t:
        record(300)
        assert t.flush()
        shutil.rmtree(observability.data_dir)
        record(20, "after.it")
        assert t.flush(20)
        assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(320, 320)]
        record(1)
        assert t.flush()
    assert sorted(path.name for path in observability.data_dir.iterdir()) == [DATABASE, "telemetry.lock"]
    assert query("SELECT count(*) FROM traces") == [(321,)]
    assert query("SELECT end_reason FROM runs") == [("clean",)]
    assert "telemetry.db was reopened" in log_messages(observability)


@pytest.mark.parametrize("how", ["unlink", "rename", "replace"])
def test_database_that_is_moved_away_is_noticed(observability, query, tmp_path, how):
    """If the database is removed, renamed or replaced, a new one is created."""
    with telemetry.open(observability) as t:
        record(50)
        assert t.flush()
        assert len(trace.get_recent(200)) == 50
        path = observability.data_dir / DATABASE
        if how == "unlink":
            path.unlink()
        else:
            path.rename(tmp_path / "away.db")
        if how == "replace":
            path.write_bytes(b"something else " * 1_000)
        assert len(trace.get_recent(200)) in (0, 50)
        record(50)
        assert t.flush(20)
        assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(100, 100)]
        assert len(trace.get_recent(200)) == 100


def test_box_that_is_removed_is_made_again(observability, monkeypatch):
    """A removed box is restored with its records at the next round."""
    monkeypatch.setattr(pacer, "_HOUSEKEEPING_S", 0.05)
    with telemetry.open(observability) as t:
        record(5)
        box = observability.data_dir / f"telemetry.{os.getpid()}.box2"
        box.unlink()

        def is_back():
            record(1)
            t.flush()
            return box.exists()

        wait_until(is_back)


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
    assert log_messages(observability).count("telemetry cannot be written") == 1


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
