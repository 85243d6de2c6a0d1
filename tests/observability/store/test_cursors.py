"""What the exporter has sent is committed by the writer, and what the ring evicts unsent is counted with it."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import AsyncExitStack, closing

import pytest
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store.cursors import Cursors, Moves
from hearthnet.observability.store.merge import merge
from hearthnet.observability.store.query.unsent import progress
from hearthnet.observability.store.ring import BEGIN, State
from hearthnet.observability.store.rows import FORGET_RUN, LOGS, TRACES
from hearthnet.observability.store.writer import Writer

RUN = ("run", None, "0", os.getpid(), None, 0, "x.py", "library")


@pytest.fixture
def path(tmp_path):
    """A new store."""
    path = tmp_path / "telemetry.db"
    open_database(path, TELEMETRY).close()
    return path


@pytest.fixture
async def writer(path):
    """A writer of a ring of ten."""
    async with AsyncExitStack() as stack:
        made = Writer(path, Recorder("run", lambda *_: None), ring_rows=10)
        await made.open(RUN)
        stack.push_async_callback(made.disconnect)
        yield made


def exported(path):
    """The rows of `state` that are about the export."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT name, value FROM state WHERE name GLOB 'otlp.*'"))


def offer(writer, numbers, **changes):
    """Hands traces over to a writer."""
    for number in numbers:
        writer._recorder.traces.offer(a_trace(number, **changes))


async def test_moves_go_with_the_next_records(path, writer):
    """They are not worth a commit of their own, unless that is wanted."""
    writer.cursors.begin("traces")
    assert await writer.flush()
    assert exported(path) == {}

    offer(writer, [1, 2, 3])
    assert await writer.flush()
    assert exported(path) == {"otlp.traces": 0}

    writer.cursors.move("traces", 0, 2)
    writer.cursors.move("traces", 2, 3)
    assert await writer.flush()
    assert exported(path) == {"otlp.traces": 0}
    assert await writer.flush(is_last=True)
    assert exported(path) == {"otlp.traces": 3}
    assert not writer.cursors.has_moves


async def test_save_waits_for_the_commit(path, writer):
    """And says so when there is none in time."""
    writer.cursors.begin("logs")
    assert not writer.cursors.save(lambda: None, 0.01)
    woken = threading.Event()
    waiting = threading.Thread(target=lambda: saved.append(writer.cursors.save(woken.set, 30.0)))
    saved: list[bool] = []
    waiting.start()
    woken.wait(30.0)
    assert await writer.flush()
    waiting.join()

    assert saved == [True]
    assert exported(path) == {"otlp.logs": 0}


async def test_failed_commit_keeps_the_moves(path, writer):
    """The next one has them."""
    real, raised = writer._db.commit, []

    async def commit():
        if not raised:
            raised.append(1)
            raise sqlite3.OperationalError("disk I/O error")
        await real()

    writer._db.commit = commit
    writer.cursors.begin("traces")
    offer(writer, [1])
    assert not await writer.flush()
    assert writer.cursors.has_moves
    offer(writer, [2])
    assert await writer.flush()
    assert exported(path) == {"otlp.traces": 0}


async def test_cursor_moves_only_from_where_it_was(path, writer):
    """One that was thought to be elsewhere is of another database: it stays, and the move is over."""
    writer.cursors.begin("traces")
    offer(writer, [1])
    assert await writer.flush()
    writer.cursors.move("traces", 500, 600)
    offer(writer, [2])
    assert await writer.flush()

    assert exported(path) == {"otlp.traces": 0}
    assert not writer.cursors.has_moves


@pytest.mark.parametrize(("cursor", "lost"), [(None, None), (0, 15), (5, 10), (12, 3), (15, None)])
async def test_evicted_rows_are_counted_that_were_not_sent(path, writer, cursor, lost):
    """In the transaction that evicts them; nothing where there is no export."""
    offer(writer, range(1, 6))
    assert await writer.flush()
    if cursor is not None:
        writer.cursors.begin("traces")
    sent = 0
    for start in (6, 16):
        if cursor is not None:
            writer.cursors.move("traces", sent, sent := min(cursor, start - 1))
        offer(writer, range(start, start + 10))
        assert await writer.flush()

    assert exported(path).get("otlp.traces.lost") == lost


@pytest.mark.parametrize("accepted", [0, 3, 10])
@pytest.mark.parametrize("is_late", [True, False])
async def test_rows_evicted_while_they_are_sent_are_not_lost_once_accepted(path, writer, accepted, is_late):
    """Of those that are not accepted, all are; also where the commit that evicts them ends after the response."""
    writer.cursors.begin("traces")
    offer(writer, range(1, 11))
    assert await writer.flush()
    writer.cursors.fly("traces", range(1, 11))
    offer(writer, range(11, 16))
    noting = writer.cursors.note_evicted

    def respond(*_):
        if accepted:
            writer.cursors.land("traces", accepted)
            writer.cursors.move("traces", 0, accepted)

    def note(*evicted):
        respond()
        noting(*evicted)

    if is_late:
        writer.cursors.note_evicted = note
    assert await writer.flush()
    assert exported(path)["otlp.traces.lost"] == 5  # a kill would lose them now
    if not is_late:
        respond()
    writer.cursors.note_evicted = noting
    writer.cursors.fly("traces", [15])
    assert await writer.flush(is_last=True)

    assert exported(path)["otlp.traces.lost"] == 5 - min(5, accepted)


async def test_rows_that_were_not_deleted_are_not_noted_as_evicted(path, writer):
    """Something of others in the database may keep them."""
    writer.cursors.begin("traces")
    offer(writer, range(1, 11))
    assert await writer.flush()
    writer.cursors.fly("traces", range(1, 11))
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TRIGGER keep BEFORE DELETE ON traces BEGIN SELECT RAISE(IGNORE); END")
    ((values, *_),) = await writer._db.execute_fetchall(BEGIN)
    await writer._evict(State(values), TRACES, 0, 2)
    await writer._db.rollback()

    assert writer._evicted == []


async def commit_in_doubt(writer, monkeypatch):
    """Flushes; the COMMIT fails although it is written."""
    genuine = writer._db.commit

    async def commit():
        await genuine()
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(writer._db, "commit", commit)
        assert not await writer.flush(is_last=True)


async def test_rows_told_of_are_taken_off_once_if_the_commit_is_in_doubt(path, writer, monkeypatch):
    """Else others that are lost later would never be told of."""
    writer.cursors.begin("traces")
    offer(writer, range(1, 11))
    assert await writer.flush()
    offer(writer, range(11, 16))
    assert await writer.flush()
    assert exported(path)["otlp.traces.lost"] == 5

    writer.cursors.tell_lost("traces", 2)
    await commit_in_doubt(writer, monkeypatch)
    assert await writer.flush(is_last=True)
    assert exported(path)["otlp.traces.lost"] == 3
    assert not writer.cursors.has_moves


async def test_rows_evicted_by_a_commit_in_doubt_are_not_lost_once_accepted(path, writer, monkeypatch):
    """The next transaction finds that it was written."""
    writer.cursors.begin("traces")
    offer(writer, range(1, 11))
    assert await writer.flush()
    writer.cursors.fly("traces", range(1, 11))
    offer(writer, range(11, 16))
    await commit_in_doubt(writer, monkeypatch)
    assert exported(path)["otlp.traces.lost"] == 5

    assert await writer.flush()
    writer.cursors.land("traces", 10)
    writer.cursors.move("traces", 0, 10)
    assert await writer.flush(is_last=True)
    assert exported(path)["otlp.traces.lost"] == 0


async def test_mark_of_a_run_ends_with_it(path, writer):
    """The table does not grow with the runs."""
    writer.cursors.begin("traces")
    writer.cursors.tell_lost("traces", 1)
    assert await writer.flush(is_last=True)
    with closing(sqlite3.connect(path)) as other:
        marked = "SELECT count(*) FROM state WHERE name GLOB 'told.*'"
        assert other.execute(marked).fetchone() == (1,)
        other.execute(FORGET_RUN, ("run",))
        assert other.execute(marked).fetchone() == (0,)


async def test_log_records_that_are_not_exported_are_not_lost(path, writer):
    """Those of the export itself, and of its client."""
    writer.cursors.begin("logs")
    for number in range(1, 21):
        writer._recorder.logs.offer(a_log(number, logger="httpx" if number % 2 else "x"))
        assert await writer.flush()

    assert exported(path)["otlp.logs.lost"] == 5


async def test_signal_that_is_off_loses_nothing(path, writer):
    """Its evicted rows are not counted; switched on again it goes on where it was."""
    writer.cursors.begin("traces")
    offer(writer, range(1, 11))
    assert await writer.flush()
    writer.cursors.move("traces", 0, 4)
    offer(writer, range(11, 16))
    assert await writer.flush()
    assert exported(path) == {"otlp.traces": 4, "otlp.traces.lost": 1}
    writer.cursors.end("traces")
    offer(writer, range(16, 26))
    assert await writer.flush()
    with closing(sqlite3.connect(path)) as connection:
        assert progress(connection) == {}
    assert exported(path)["otlp.traces.lost"] == 0
    writer.cursors.end("traces")
    writer.cursors.begin("traces")
    assert await writer.flush(is_last=True)

    assert exported(path) == {"otlp.traces": 4, "otlp.traces.lost": 0}


async def test_cursor_stays_below_the_seqs_to_come(path, writer):
    """A damaged database may come back with fewer rows than were sent of it: those to come must not be skipped."""
    writer.cursors.begin("traces")
    offer(writer, range(1, 6))
    assert await writer.flush()
    writer.cursors.move("traces", 0, 100)
    offer(writer, [6])
    assert await writer.flush()

    assert exported(path) == {"otlp.traces": 5}


async def test_classes_are_counted_each(path, writer):
    """The rows of one class may be older than those of the other that stay."""
    writer.cursors.begin("traces")
    offer(writer, [1, 2], notable=1)
    offer(writer, range(3, 11))
    assert await writer.flush()
    writer.cursors.move("traces", 0, 4)
    offer(writer, range(11, 15))
    assert await writer.flush()
    offer(writer, range(15, 17))
    assert await writer.flush()

    assert exported(path) == {"otlp.traces": 4, "otlp.traces.lost": 4}


async def test_batch_larger_than_the_ring(path, writer):
    """What never became a row is lost all the same."""
    writer.cursors.begin("traces")
    assert not writer.cursors.save(lambda: None, 0)
    assert await writer.flush()
    offer(writer, range(1, 26))
    assert await writer.flush()

    assert exported(path)["otlp.traces.lost"] == 15


async def test_told_rows_are_taken_off_the_count(path, writer):
    """Those that were evicted meanwhile stay."""
    writer.cursors.begin("traces")
    offer(writer, range(1, 11))
    assert await writer.flush()
    offer(writer, range(11, 14))
    assert await writer.flush()
    writer.cursors.tell_lost("traces", 2)
    offer(writer, range(14, 19))
    assert await writer.flush()

    assert exported(path)["otlp.traces.lost"] == 6


def test_recovery_counts_what_it_evicts(path, monkeypatch):
    """By the same rule."""
    monkeypatch.setattr(TRACES, "size", 10)
    monkeypatch.setattr(LOGS, "size", 10)
    with closing(open_database(path, TELEMETRY)) as connection:
        merge(connection, [a_trace(n) for n in range(1, 11)])
        connection.execute("INSERT INTO state VALUES ('otlp.traces', 4)")
        merge(connection, [*(a_trace(n, "other") for n in range(11, 17)), *(a_log(n, "other") for n in range(17, 40))])

    assert exported(path) == {"otlp.traces": 4, "otlp.traces.lost": 2}


def test_moves_made_during_a_commit_stay():
    """Only what was taken is confirmed."""
    cursors = Cursors()
    cursors.move("traces", 0, 5)
    cursors.tell_lost("logs", 3)
    taken = cursors.take()
    cursors.move("traces", 5, 9)
    cursors.tell_lost("logs", 1)
    cursors.confirm(taken)

    assert cursors.take() == Moves(set(), {"traces": (5, 9)}, {"logs": 1})
    state = State(b'{"seq": 20, "otlp.traces": 5, "otlp.logs": 0, "otlp.logs.lost": 4}')
    cursors.take().apply(state)
    assert (state.cursor(TRACES), dict(state.changes())["otlp.logs.lost"]) == (9, 3)
