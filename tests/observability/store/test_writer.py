"""How much one flush commits, what it evicts beside other writers, and up to where a run is settled."""

from __future__ import annotations

import os
import sqlite3
from contextlib import AsyncExitStack, closing
from time import perf_counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability import metrics
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store import writer as writing
from hearthnet.observability.store.budget import PAGE_BYTES
from hearthnet.observability.store.ring import SET
from hearthnet.observability.store.writer import Settled, Writer

LATE = 5
RUN = (None, "0", os.getpid(), None, 0, "x.py", "library")


class Busy(Writer):
    """A writer with another record arriving during each of its first few commits."""

    commits = 0

    async def _commit(self, *batch) -> list[int]:
        numbers = await super()._commit(*batch)
        self.commits += 1
        if self.commits <= LATE:
            self._recorder.traces.offer(a_trace(10_000 + self.commits))
        return numbers


@pytest.fixture
def path(tmp_path):
    """A new store."""
    path = tmp_path / "telemetry.db"
    open_database(path, TELEMETRY).close()
    return path


@pytest.fixture
async def writers(path):
    """Makes writers with recorders of their own, as many processes have them."""
    async with AsyncExitStack() as stack:

        async def make(run_id, kind=Writer, **options):
            writer = kind(path, Recorder(run_id, lambda *_: None), **options)
            await writer.open((run_id, *RUN))
            stack.push_async_callback(writer.disconnect)
            return writer

        yield make


def query(path, sql):
    """Returns the rows of a query."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def offer(writer, numbers, **changes):
    """Hands traces over to a writer."""
    run_id = writer._recorder.run_id
    for number in numbers:
        writer._recorder.traces.offer(a_trace(number, run_id, **changes))


@pytest.mark.parametrize(
    ("is_gentle", "buffered", "commits", "left"),
    [(True, 10, 1, 1), (True, 25, 3, 1), (False, 10, LATE + 1, 0), (False, 25, LATE + 1, 0)],
)
async def test_flush_commits_what_there_was(path, writers, monkeypatch, is_gentle, buffered, commits, left):
    """A flush commits all records that it found, in as many batches as needed; later ones only if a caller waits."""
    monkeypatch.setattr(writing, "BATCH_ROWS", 10)
    writer = await writers("run", Busy, ring_rows=1_000)
    offer(writer, range(1, buffered + 1))
    if is_gentle:
        writer.is_gentle = True

    assert await writer.flush()
    assert (writer.commits, len(writer._recorder.traces)) == (commits, left)

    writer.is_gentle = False
    assert await writer.flush()
    assert len(writer._recorder.traces) == 0
    assert query(path, "SELECT count(*) FROM traces") == [(buffered + LATE,)]


@pytest.mark.parametrize(("traces", "logs"), [(25, 25), (25, 30), (0, 25), (30, 25)])
async def test_gentle_flush_commits_both_kinds(path, writers, monkeypatch, traces, logs):
    """What was buffered when it began is committed, all of it, whatever there is of either."""
    monkeypatch.setattr(writing, "BATCH_ROWS", 10)
    writer = await writers("run", ring_rows=1_000)
    offer(writer, range(1, traces + 1))
    for number in range(traces + 1, traces + logs + 1):
        writer._recorder.logs.offer(a_log(number))
    writer.is_gentle = True

    assert await writer.flush()
    assert query(path, "SELECT (SELECT count(*) FROM traces), (SELECT count(*) FROM logs)") == [(traces, logs)]
    assert writer.held == (traces, logs)


def flush_seconds():
    """The number of commits that were measured, and the sum of their seconds."""
    page = text_string_to_metric_families(metrics.exposition()[0].decode())
    found = {sample.name: sample.value for family in page for sample in family.samples}
    return found["hearthnet_telemetry_flush_seconds_count"], found["hearthnet_telemetry_flush_seconds_sum"]


async def test_time_of_each_commit_is_measured(writers):
    """Their sum is no longer than all of them took."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    count, summed_s = flush_seconds()
    writer = await writers("run")
    started_s = perf_counter()
    for number in range(1, 4):
        offer(writer, [number])
        assert await writer.flush()
    took_s = perf_counter() - started_s

    assert flush_seconds()[0] - count == 3
    assert 0 < flush_seconds()[1] - summed_s <= took_s


async def test_process_about_to_fork_leaves_the_rest_to_the_next_flush(path, writers, monkeypatch):
    """It waits for one batch only; at the end nothing is left, whoever is about to fork."""
    monkeypatch.setattr(writing, "BATCH_ROWS", 10)
    writer = await writers("run")
    offer(writer, range(1, 36))
    writer.must_yield = True

    assert await writer.flush()
    assert query(path, "SELECT count(*) FROM traces") == [(10,)]
    assert await writer.flush(is_last=True)
    assert query(path, "SELECT count(*) FROM traces") == [(35,)]


async def test_writers_in_turn_share_one_ring(path, writers):
    """Two processes give each seq once, in the order of their commits, and keep the newest of both."""
    one, two = await writers("one", ring_rows=10), await writers("two", ring_rows=10)
    for start in range(1, 60, 3):
        for writer in (one, two):
            offer(writer, range(start, start + 3))
            assert await writer.flush()

    assert (
        query(path, "SELECT run_id, number FROM traces ORDER BY seq")
        == [
            ("two", 54),
            *(("one", number) for number in (55, 56, 57)),
            *(("two", number) for number in (55, 56, 57)),
            *(("one", number) for number in (58, 59, 60)),
            *(("two", number) for number in (58, 59, 60)),
        ][-10:]
    )
    assert query(path, "SELECT max(seq) FROM traces") == [(120,)]
    assert query(path, "SELECT name, value FROM state WHERE name IN ('one', 'two', 'seq', 'traces.0')") == [
        ("one", 60),
        ("seq", 120),
        ("traces.0", 10),
        ("two", 60),
    ]


async def test_batch_larger_than_the_ring_keeps_its_newest(path, writers):
    """Of a batch that the ring cannot hold, the newest are written and the rest is settled."""
    writer = await writers("run", ring_rows=10)
    offer(writer, range(1, 6))
    assert await writer.flush()
    offer(writer, range(6, 60))
    assert await writer.flush()

    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(number,) for number in range(50, 60)]
    assert writer.settled.number == 59


async def test_late_records_are_committed_once(path, writers):
    """A record whose thread was late has a lower number than those committed before it, and a higher seq."""
    writer = await writers("run")
    offer(writer, [1, 2, 4, 5])
    assert await writer.flush()
    assert writer.settled.number == 2
    offer(writer, [3, 6])
    assert await writer.flush()

    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(1,), (2,), (4,), (5,), (3,), (6,)]
    assert query(path, "SELECT count(DISTINCT seq) FROM traces") == [(6,)]
    assert writer.settled.number == 6


async def test_rows_deleted_by_hand_are_no_reason_to_evict_others(path, writers):
    """If somebody deletes rows while a writer runs, it counts anew when it must evict, and keeps what there is."""
    writer = await writers("run", ring_rows=10)
    offer(writer, range(1, 11))
    assert await writer.flush()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DELETE FROM traces WHERE number > 2")
    offer(writer, range(11, 17))
    assert await writer.flush()

    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(1,), (2,), *((n,) for n in range(11, 17))]
    assert query(path, "SELECT value FROM state WHERE name = 'traces.0'") == [(8,)]


async def test_rows_inserted_by_hand_can_be_evicted(path, writers):
    """Rows with a seq below where their class was thought to begin do not stop a full ring."""
    writer = await writers("run", ring_rows=10)
    offer(writer, range(1, 31))
    assert await writer.flush()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE traces SET seq = seq - 1000")
    offer(writer, range(31, 36))
    assert await writer.flush()

    assert query(path, "SELECT number FROM traces ORDER BY number") == [(number,) for number in range(26, 36)]


async def test_commit_that_fails_half_way_leaves_nothing_and_no_lock(path, writers, monkeypatch):
    """Other processes write meanwhile; the next flush commits each record once, after theirs."""
    writer = await writers("run")
    execute = writer._db.executemany

    async def refuse(statement, values):
        if statement == SET:  # the last statement before COMMIT
            raise sqlite3.OperationalError("disk I/O error")
        return await execute(statement, values)

    offer(writer, (1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(writer._db, "executemany", refuse)
        assert not await writer.flush()
    with closing(sqlite3.connect(path, timeout=0)) as other:
        assert other.execute("SELECT count(*) FROM traces").fetchone() == (0,)
        other.execute("UPDATE state SET value = 10 WHERE name = 'seq'")
        other.commit()

    assert await writer.flush()
    assert query(path, "SELECT seq, number FROM traces ORDER BY seq") == [(11, 1), (12, 2)]


class Counting(Writer):
    """A writer that notes how many records each of its commits has."""

    batches: list[int]

    async def _commit(self, *batch) -> list[int]:
        numbers = await super()._commit(*batch)
        self.batches.append(len(numbers))
        return numbers


ROW = 250  # bytes that a row is taken to have besides its texts


@pytest.mark.parametrize("kind", ["traces", "logs"])
@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([2_000] * 5, [2, 2, 1]),
        ([5_000 - 2 * ROW - 100, 100], [2]),  # exactly as much
        ([5_000 - 2 * ROW - 100, 101], [1, 1]),
        ([20_000, 10, 10], [1, 2]),  # more than the share of any batch
        ([10, 20_000, 10], [1, 1, 1]),
        ([10] * 20, [19, 1]),  # short rows are counted, too
    ],
)
async def test_batch_takes_no_more_of_the_wal_than_its_share(path, writers, monkeypatch, kind, sizes, batches):
    """As many records as fit, at least one, in their order; none is lost."""
    monkeypatch.setattr(writing, "BATCH_BYTES", 5_000)
    writer = await writers("run", Counting)
    writer.batches = []
    for number, size in enumerate(sizes, 1):
        record = (
            a_trace(number, spans=b"[]", extras=b"x" * (size - 2))
            if kind == "traces"
            else a_log(number, msg="m", extras=b"{}", exc="x" * (size - 3))
        )
        getattr(writer._recorder, kind).offer(record)

    assert await writer.flush()
    assert writer.batches == batches
    assert query(path, f"SELECT number FROM {kind} ORDER BY seq") == [(at,) for at in range(1, len(sizes) + 1)]


FAILURES = {  # the reason, then after how many failures it is told, and after how many the store is opened again
    sqlite3.SQLITE_BUSY: ("locked", 3, None),
    sqlite3.SQLITE_IOERR: ("io", 1, 2),
    sqlite3.SQLITE_READONLY: ("read_only", 1, 2),
    sqlite3.SQLITE_CORRUPT: ("corrupt", 1, 1),
    None: ("other", 1, 2),
}


@pytest.mark.parametrize("code", FAILURES)
async def test_failure_is_told_once_and_so_is_its_end(writers, monkeypatch, logged, code):
    """A lock ends by itself, and is no news at first; what may be the connection's own fault ends with a new one."""
    reason, told_after, reopened_after = FAILURES[code]
    writer = await writers("run")

    async def refuse(*_):
        error = sqlite3.OperationalError("refused")
        if code is not None:
            error.sqlite_errorcode = code
        raise error

    def told():
        return [(record.getMessage(), record.reason) for record in logged if "telemetry" in record.getMessage()]

    offer(writer, [1])
    with monkeypatch.context() as patch:
        patch.setattr(writer._db, "commit", refuse)
        for tried in range(1, 5):
            assert not await writer.flush()
            assert writer.failing == reason
            assert told() == [("telemetry cannot be written", reason)] * (tried >= told_after)
            assert writer.must_reopen == (reopened_after is not None and tried >= reopened_after)
    assert await writer.flush()

    assert writer.failing is None
    assert told()[1:] == [("telemetry is written again", reason)]
    offer(writer, [2])
    assert await writer.flush()
    assert len(told()) == 2


@pytest.mark.parametrize("reason", ["io", None])
async def test_failure_of_the_writer_before_is_not_told_again(writers, monkeypatch, logged, reason):
    """One that takes over from a writer whose failure was logged logs the end of it alone."""
    writer = await writers("run")
    writer.keep_failing(reason, reason and "refused")

    async def refuse(*_):
        raise sqlite3.OperationalError("refused")

    offer(writer, [1])
    with monkeypatch.context() as patch:
        patch.setattr(writer._db, "commit", refuse)
        assert not await writer.flush()
    assert await writer.flush()

    said = [record.getMessage() for record in logged if "telemetry" in record.getMessage()]
    expected = ["telemetry cannot be written", "telemetry is written again"]
    assert said == (expected if reason is None else expected[1:])


async def test_wear_is_noted_if_something_was_committed(path, writers):
    """A run's row has how many commits it made; an idle process does not write it again."""
    writer = await writers("run")
    offer(writer, [1])
    assert await writer.flush()
    await writer.record_wear("run")
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT commits FROM runs").fetchone() == (1,)
        other.execute("UPDATE runs SET commits = 7")
        other.commit()
    await writer.record_wear("run")
    assert query(path, "SELECT commits FROM runs") == [(7,)]
    offer(writer, [2])
    assert await writer.flush()
    await writer.record_wear("run")

    assert query(path, "SELECT commits FROM runs") == [(2,)]


async def test_commit_that_was_written_although_it_failed_is_not_repeated(path, writers):
    """If COMMIT raises after the batch is in the database, the next try finds it there."""
    writer = await writers("run")
    genuine, raised = writer._db.commit, []

    async def commit():
        await genuine()
        if not raised:
            raised.append(1)
            raise sqlite3.OperationalError("disk I/O error")

    writer._db.commit = commit
    offer(writer, range(1, 6))
    assert not await writer.flush()
    offer(writer, [6])
    assert await writer.flush()

    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(number,) for number in range(1, 7)]
    assert query(path, "SELECT value FROM state WHERE name = 'traces.0'") == [(6,)]


async def test_record_that_cannot_be_stored_is_not_counted_as_a_row(path, writers):
    """A poisoned record is dropped and told; the ring's count is that of the rows that are there."""
    writer = await writers("run")
    offer(writer, [1, 2])
    offer(writer, [3], capability=None)
    offer(writer, [4])
    assert await writer.flush()

    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(1,), (2,), (4,)]
    assert query(path, "SELECT kind, reason, count, run_id FROM gaps") == [("trace", "poison", 1, "run")]
    assert query(path, "SELECT value FROM state WHERE name = 'traces.0'") == [(3,)]
    assert writer.settled.number == 4


async def test_late_record_after_a_drop_is_not_taken_for_dropped(path, writers, monkeypatch):
    """Dropped numbers are settled with the batches that follow; from then on a missing number is waited for again."""
    writer = await writers("run")
    offer(writer, [1, 2])
    offer(writer, [5, 6])  # 3 and 4 were dropped
    monkeypatch.setattr(writer._recorder.traces, "_dropped", 2)
    assert await writer.flush()
    offer(writer, [7])
    assert await writer.flush()
    assert writer.settled.number == 7
    assert query(path, "SELECT reason, count, run_id FROM gaps") == [("buffer_full", 2, "run")]

    offer(writer, [9])
    assert await writer.flush()
    assert writer.settled.number == 7
    assert query(path, "SELECT value FROM state WHERE name = 'run'") == [(7,)]


async def test_what_is_settled_is_committed_with_the_batch(path, writers):
    """The database knows how far a run has come as of the very commit, until the run is closed."""
    writer = await writers("run")
    offer(writer, [1, 2, 3, 5])
    assert await writer.flush()
    assert query(path, "SELECT value FROM state WHERE name = 'run'") == [(3,)]

    assert await writer.close("run", 1.0)
    assert query(path, "SELECT value FROM state WHERE name = 'run'") == []
    assert query(path, "SELECT end_reason FROM runs") == [(rows.CLEAN,)]


numbered = st.permutations(range(1, 31))


@given(numbered, st.lists(st.integers(1, 9), min_size=30, max_size=30), st.sets(st.integers(1, 30)))
def test_settled_is_the_end_of_what_is_complete(order, sizes, dropped):
    """Whatever order the numbers come in: it is the number below which none is missing, and `after` says so before."""
    settled, seen = Settled(), set()
    left = [number for number in order if number not in dropped]
    for size in sizes:
        batch, left = sorted(left[:size]), left[size:]
        seen.update(batch)
        complete = next(number for number in range(32) if number + 1 not in seen)
        assert settled.after(batch) == complete
        settled.add(batch)
        assert settled.number == complete


@given(numbered, st.sets(st.integers(1, 30)), st.integers(0, 30), st.integers(0, 30))
def test_missing_numbers_are_given_up_after_two_rounds(order, dropped, first, second):
    """A number that is missing at two calls in a row is given up; one that was given meanwhile is waited for."""
    settled, seen = Settled(), set()
    arrived = [number for number in order if number not in dropped]
    waited_for = 0
    for until in (first, second, 30, 30):
        settled.add(sorted(arrived[len(seen) : until]))
        seen.update(arrived[:until])
        before = settled.number
        settled.give_up()
        assert settled.number >= max(before, waited_for)
        waiting = set(range(1, settled.number + 1)) - seen
        assert all(number <= max(before, waited_for) for number in waiting)
        waited_for = max((number for number in seen if number > settled.number), default=0)

    assert settled.number == max(arrived, default=0)


def test_skipped_numbers_join_what_is_ahead():
    """What was dropped is skipped, and what had come already above it is settled with it."""
    settled = Settled()
    settled.add([1, 2, 6, 7])
    settled.skip(4)
    assert settled.number == 4
    settled.add([5])
    assert settled.number == 7
    settled.skip(3)
    assert settled.number == 7


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
async def test_connection_to_files_that_are_gone_is_of_no_use(path, writers, ending):
    """Whatever of the three is removed: other processes make a new one, and neither sees what the other writes."""
    writer = await writers("run")
    offer(writer, [1])
    assert await writer.flush()
    path.with_name(path.name + ending).unlink()
    offer(writer, [2])

    assert not await writer.flush()
    assert (writer.failing, writer.must_reopen) == ("gone", True)


async def test_run_is_not_ended_in_a_database_that_was_moved_aside(path, writers):
    """With nothing left to commit, too: what the run committed is in its box, which must stay."""
    writer = await writers("run")
    offer(writer, [1])
    assert await writer.flush()
    path.rename(path.with_name("aside.db"))

    assert not await writer.close("run", 0.1)


@pytest.mark.parametrize(("kind", "make", "expected"), [("traces", a_trace, (5, 0)), ("logs", a_log, (0, 5))])
async def test_dropped_records_are_noted_in_the_box_once_their_gap_is_committed(
    path, writers, monkeypatch, kind, make, expected
):
    """Until then nobody has counted them: recovery must, if the process is killed."""
    writer = await writers("run")
    noted = []
    box = SimpleNamespace(note_committed=lambda traces, logs, _: noted.append((traces, logs)))
    monkeypatch.setattr(writer._recorder, "box", box)
    buffer = getattr(writer._recorder, kind)
    monkeypatch.setattr(buffer, "capacity", 3)
    for number in range(1, 6):
        buffer.offer(make(number, "run"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not await writer.flush()
        assert noted == []

    assert await writer.flush()
    assert noted[0] == expected
    assert query(path, "SELECT kind, reason, count FROM gaps") == [(kind[:-1], "buffer_full", 2)]


async def test_run_that_was_taken_for_dead_commits_nothing_twice(path, writers):
    """A writer whose run another process has recovered and closed opens it again, and asks what the database has."""
    writer = await writers("run")
    offer(writer, range(1, 4))
    assert await writer.flush()
    with closing(sqlite3.connect(path)) as other:
        values = [*rows.TRACES.with_seq(a_trace(4, "run"), 10)]
        other.execute(rows.TRACES.insert, values)
        other.execute(rows.END_RUN, (1, rows.UNCLEAN, "run"))
        other.execute(rows.FORGET_RUN, ("run",))
        other.execute("UPDATE state SET value = 10 WHERE name = 'seq'")
        other.commit()
    offer(writer, (4, 5))

    assert not await writer.flush()
    assert writer.must_reopen
    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(1,), (2,), (3,), (4,)]

    again = await writers("run", settled=writer.settled, doubtful_to=5)
    offer(again, (4, 5))
    assert await again.flush()
    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(1,), (2,), (3,), (4,), (5,)]
    assert query(path, "SELECT ended_us, end_reason FROM runs") == [(None, None)]
    assert query(path, "SELECT value FROM state WHERE name = 'run'") == [(5,)]


async def test_records_that_may_be_pending_are_committed_once(path, writers):
    """A store that is opened again asks which of them the database has: a COMMIT that failed may have been written."""
    first = await writers("run")
    offer(first, range(1, 6))
    assert await first.flush()
    again = await writers("run", doubtful_to=5)
    offer(again, range(1, 8))

    assert await again.flush()
    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(number,) for number in range(1, 8)]


async def test_oldest_ended_runs_make_room(path, writers, monkeypatch):
    """Each new run trims the table; runs that have not ended stay."""
    monkeypatch.setattr(writing, "MAX_RUN_ROWS", 3)
    with closing(sqlite3.connect(path)) as connection, connection:
        for run_id, ended_us in (("open", None), ("a", 1), ("b", 1), ("c", 1)):
            connection.execute(rows.INSERT_RUN, (run_id, *RUN))
            connection.execute(rows.END_RUN, (ended_us, rows.CLEAN, run_id))
    await writers("run")

    assert query(path, "SELECT run_id FROM runs ORDER BY rowid") == [("open",), ("b",), ("c",), ("run",)]


async def test_tables_of_others_are_blamed_for_a_full_file_alone(path, writers):
    """Another error is told as what it is, whatever else is in the database."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (text)")
    writer = await writers("run")
    await writer._db.execute("PRAGMA query_only = ON")
    offer(writer, [1])

    assert not await writer.flush()
    assert writer.failing == "read_only"


class Counted(Writer):
    """A writer that counts its flushes, and writes no row by itself."""

    flushes = 0

    async def flush(self, **how) -> bool:
        """Counts it."""
        self.flushes += 1
        return await super().flush(**how)

    async def _insert_singly(self, *_):
        raise AssertionError("row by row")


@pytest.mark.parametrize("count", [1, rows.ROWS_AT_ONCE - 1, rows.ROWS_AT_ONCE, 2 * rows.ROWS_AT_ONCE + 10])
async def test_batch_of_any_size_takes_the_fast_way(path, writers, count):
    """Many rows a statement, and one statement each for the rest."""
    writer = await writers("run", Counted)
    offer(writer, range(1, count + 1))

    assert await writer.flush()
    assert query(path, "SELECT count(*) FROM traces") == [(count,)]


@pytest.mark.parametrize("reason", ["gone", "read_only"])
async def test_last_flush_is_tried_again_only_where_another_process_writes(path, reason):
    """Waiting helps against a lock alone."""
    writer = Counted(path, Recorder("run", lambda *_: None))
    await writer.open(("run", *RUN))
    offer(writer, [1])
    if reason == "gone":
        path.unlink()
    else:
        await writer._db.execute("PRAGMA query_only = ON")

    assert not await writer.close("run", within_s=2)
    assert (writer.failing, writer.flushes) == (reason, 1)


async def test_damage_is_no_fault_of_a_record(writers, monkeypatch):
    """The batch is not written again row by row: that helps where one of its rows cannot be stored."""
    writer = await writers("run", Counted)

    async def refuse():
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    offer(writer, [1])
    monkeypatch.setattr(writer._db, "commit", refuse)

    assert not await writer.flush()
    assert writer.failing == "corrupt"


async def test_run_is_not_ended_in_a_database_that_was_damaged(path):
    """With nothing left to commit, too: this connection would not notice, the next reader does."""
    writer = Writer(path, Recorder("run", lambda *_: None))
    await writer.open(("run", *RUN))
    offer(writer, [1])
    assert await writer.flush()
    await writer._db.execute("PRAGMA wal_checkpoint(FULL)")
    with path.open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(b"\xa5" * (path.stat().st_size - PAGE_BYTES))

    assert not await writer.close("run", within_s=2)
    assert writer.failing == "corrupt"


async def test_space_is_made_where_most_rows_are(path, writers, monkeypatch):
    """Rows of both classes count: many notable traces make room for a record, not a few ordinary logs."""
    writer = await writers("run", ring_rows=100)
    offer(writer, [1])
    offer(writer, range(2, 11), notable=1)
    for number in range(11, 16):
        writer._recorder.logs.offer(a_log(number))
    assert await writer.flush()
    short = iter([True, False])

    async def is_short(*_):
        return next(short)

    monkeypatch.setattr(writer.quota, "fits", lambda *_: False)
    monkeypatch.setattr(writer.quota, "is_short", is_short)
    offer(writer, [16])
    assert await writer.flush()

    assert query(path, "SELECT count(*) FROM logs") == [(5,)]
    assert query(path, "SELECT number FROM traces ORDER BY seq") == [(1,), (16,)]


async def test_pages_get_their_space_in_the_file_at_once(path, writers):
    """A database that grows is copied to its file however little is due: later the disk may be full."""
    path.unlink()
    open_database(path, TELEMETRY._replace(reserve_bytes=0)).close()
    writer = await writers("run")
    offer(writer, range(1, 5), extras=b'"%b"' % (b"x" * 100_000))
    assert await writer.flush()

    ((pages,),) = query(path, "SELECT page_count FROM pragma_page_count()")
    assert path.stat().st_size == pages * PAGE_BYTES > 400_000


class Ending(Writer):
    """A writer that notes how long a statement would wait for others while its run is ended."""

    patience_ms = 0

    async def _set_wear(self, run_id):
        ((self.patience_ms,),) = await self._db.execute_fetchall("PRAGMA busy_timeout")
        await super()._set_wear(run_id)


async def test_end_of_a_run_waits_for_other_writers_as_long_as_it_may(path):
    """A run that has committed everything must not be taken for one that died because of a lock."""
    writer = Ending(path, Recorder("run", lambda *_: None))
    await writer.open(("run", *RUN))
    offer(writer, [1])

    assert await writer.close("run", within_s=120)
    assert writer.patience_ms > 60_000
    assert query(path, "SELECT end_reason FROM runs") == [(rows.CLEAN,)]
