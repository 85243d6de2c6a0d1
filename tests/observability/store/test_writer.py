"""How much one flush commits, what it evicts beside other writers, and what it notes of its run."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from time import perf_counter
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.records import a_log, a_trace
from support.writers import RUN, Counted, offer, query

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability import metrics
from hearthnet.observability.store import rows
from hearthnet.observability.store import writer as writing
from hearthnet.observability.store.budget import PAGE_BYTES
from hearthnet.observability.store.writer import Writer

LATE = 5


class Busy(Writer):
    """A writer with another record arriving during each of its first few commits."""

    commits = 0

    async def _commit(self, *batch) -> list[int]:
        numbers = await super()._commit(*batch)
        self.commits += 1
        if self.commits <= LATE:
            self._recorder.traces.offer(a_trace(10_000 + self.commits))
        return numbers


@pytest.mark.parametrize(
    ("is_gentle", "buffered", "commits", "left"),
    [(True, 10, 1, 1), (True, 11, 2, 1), (True, 25, 3, 1), (False, 10, LATE + 1, 0), (False, 25, LATE + 1, 0)],
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
    assert writer.held == (0, 0)

    assert await writer.flush()
    assert query(path, "SELECT (SELECT count(*) FROM traces), (SELECT count(*) FROM logs)") == [(traces, logs)]
    assert writer.held == (traces, logs)


async def test_first_writer_marks_the_database(path, writers):
    """By a number that later ones leave as it is: whoever follows the store knows it again by that."""
    numbers = []
    for run_id in ("one", "two"):
        await writers(run_id)
        numbers += query(path, "SELECT value FROM state WHERE name = 'epoch'")

    assert numbers[0] == numbers[1] != (0,)


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

    for number in (9, 11):
        offer(writer, [number])
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


@pytest.mark.parametrize(("kind", "make", "expected"), [("traces", a_trace, (5, 0)), ("logs", a_log, (0, 5))])
async def test_dropped_records_are_noted_in_the_box_once_their_gap_is_committed(
    path, writers, monkeypatch, logged, kind, make, expected
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
    assert [(told.kind, told.count) for told in logged if "dropped" in told.getMessage()] == [(kind[:-1], 2)]


async def test_oldest_ended_runs_make_room(path, writers, monkeypatch):
    """Each new run trims the table; runs that have not ended stay."""
    monkeypatch.setattr(writing, "MAX_RUN_ROWS", 3)
    with closing(sqlite3.connect(path)) as connection, connection:
        for run_id, ended_us in (("open", None), ("a", 1), ("b", 1), ("c", 1)):
            connection.execute(rows.INSERT_RUN, (run_id, *RUN))
            connection.execute(rows.END_RUN, (ended_us, rows.CLEAN, run_id))
    await writers("run")

    assert query(path, "SELECT run_id FROM runs ORDER BY rowid") == [("open",), ("b",), ("c",), ("run",)]


@pytest.mark.parametrize("count", [1, rows.ROWS_AT_ONCE - 1, rows.ROWS_AT_ONCE, 2 * rows.ROWS_AT_ONCE + 10])
async def test_batch_of_any_size_takes_the_fast_way(path, writers, count):
    """Many rows a statement, and one statement each for the rest."""
    writer = await writers("run", Counted)
    offer(writer, range(1, count + 1))

    assert await writer.flush()
    assert query(path, "SELECT count(*) FROM traces") == [(count,)]


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


@pytest.mark.parametrize(("times", "left"), [(1, 70), (2, 20), (3, 0), (99, 0)])
async def test_space_is_made_until_there_is_enough_or_nothing_left(path, writers, monkeypatch, times, left):
    """The oldest rows go, fifty at a time."""
    writer = await writers("run", ring_rows=200)
    offer(writer, range(1, 121))
    assert await writer.flush()
    asked = iter([True] * times)

    async def is_short(*_):
        return next(asked, False)

    monkeypatch.setattr(writer.quota, "fits", lambda *_: False)
    monkeypatch.setattr(writer.quota, "is_short", is_short)
    offer(writer, [121])
    assert await writer.flush()

    numbers = [number for (number,) in query(path, "SELECT number FROM traces ORDER BY seq")]
    assert numbers == list(range(121 - left, 122))


def rows_in_the_file(path):
    """Counts the traces that the database has without its WAL: those of the last checkpoint."""
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(f"file:{copy}?immutable=1", uri=True)) as connection:
        return connection.execute("SELECT count(*) FROM traces").fetchone()[0]


async def test_wal_is_copied_to_the_file_once_enough_was_written(path, writers):
    """So that it is used anew from its start, and stays small: not at each commit, and not never."""
    writer = await writers("run", wal_due=400_000)
    counts = []
    for number in range(1, 21):
        offer(writer, [number], extras=b'"%b"' % (b"x" * 10_000))
        assert await writer.flush()
        counts.append(rows_in_the_file(path))

    assert counts[0] == 0
    assert 10 <= counts[-1] <= 20
    assert len(set(counts)) < 10
    assert writer.wal.used < 400_000
