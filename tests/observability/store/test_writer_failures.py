"""Commits that fail: what is told of them, what stays, what is written once, when the store must be opened again."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support.records import a_trace
from support.writers import RUN, Counted, offer, query

from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import PAGE_BYTES
from hearthnet.observability.store.ring import SET
from hearthnet.observability.store.writer import Writer


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
            assert (writer.failing, writer.error) == (reason, "refused")
            assert told() == [("telemetry cannot be written", reason)] * (tried >= told_after)
            assert writer.must_reopen == (reopened_after is not None and tried >= reopened_after)
    assert await writer.flush()

    assert writer.failing is None
    assert told()[1:] == [("telemetry is written again", reason)]
    offer(writer, [2])
    assert await writer.flush()
    assert len(told()) == 2


async def test_lock_that_ended_soon_is_not_told_at_all(writers, monkeypatch, logged):
    """Neither that it was there, nor that it is gone."""
    writer = await writers("run")

    async def refuse():
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    offer(writer, [1])
    with monkeypatch.context() as patch:
        patch.setattr(writer._db, "commit", refuse)
        assert not await writer.flush()
    assert await writer.flush()

    assert [record.getMessage() for record in logged if "telemetry" in record.getMessage()] == []


async def test_lock_that_lasts_is_told_with_who_holds_the_file(path, writers, logged):
    """The other processes, by name: this one knows its own connection."""
    writer = await writers("run")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await writer._be_patient(0)
        for _ in range(3):
            offer(writer, [1])
            assert not await writer.flush()

    (told,) = [record for record in logged if record.getMessage() == "telemetry cannot be written"]
    assert (told.reason, told.held_by, told.path) == ("locked", [], str(path))


def fill_disk(writer, times):
    """Makes so many commits fail because the disk is full."""
    genuine, failed = writer._db.commit, []

    async def commit():
        if len(failed) < times:
            failed.append(1)
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        await genuine()

    writer._db.commit = commit


async def test_full_disk_is_written_in_place_at_once(path, writers, logged):
    """The batch is tried again with a file that may not grow, once; that is no failure yet."""
    writer = await writers("run")
    fill_disk(writer, 1)
    offer(writer, [1])

    assert await writer.flush()
    assert writer.quota.is_tight
    assert query(path, "SELECT number FROM traces") == [(1,)]
    assert [record for record in logged if "telemetry" in record.getMessage()] == []


async def test_disk_that_stays_full_is_waited_for(writers):
    """It is not tried again and again in one flush; the store is as good as it was."""
    writer = await writers("run")
    fill_disk(writer, 2)
    offer(writer, [1])

    assert not await writer.flush()
    assert (writer.failing, writer.must_reopen) == ("disk_full", False)
    assert await writer.flush()


async def test_disk_without_space_for_a_checkpoint_is_not_tried_again(writers, monkeypatch):
    """Until the next flush: there is nothing to write in place of."""
    writer = await writers("run")
    tried = []

    async def refuse(*_):
        tried.append(1)
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(writer._db, "commit", refuse)
    monkeypatch.setattr(writer.wal, "checkpoint", refuse)
    offer(writer, [1])

    assert not await writer.flush()
    assert len(tried) == 2  # the commit, and the checkpoint


async def test_full_disk_gets_what_is_committed_into_the_file(path, writers):
    """So that the WAL is used anew, which has its space already."""
    writer = await writers("run")
    offer(writer, [1, 2, 3])
    assert await writer.flush()
    fill_disk(writer, 1)
    offer(writer, [4])
    assert await writer.flush()

    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    assert query(copy, "SELECT number FROM traces ORDER BY seq") == [(1,), (2,), (3,)]


async def test_commit_that_cannot_be_undone_needs_another_connection(path, writers, logged):
    """The file is gone or damaged: this one is of no more use, and is not tried again."""
    writer = await writers("run")
    genuine, tried = writer._db.commit, []

    async def refuse():
        tried.append(1)
        if len(tried) == 1:
            raise sqlite3.OperationalError("disk I/O error")
        await genuine()

    async def fail():
        raise sqlite3.DatabaseError("file is not a database")

    writer._db.commit, writer._db.rollback = refuse, fail
    offer(writer, [1])

    assert not await writer.flush()
    assert (writer.must_reopen, tried) == (True, [1])
    (told,) = [record for record in logged if record.getMessage() == "telemetry cannot be read"]
    assert (str(told.error), told.path) == ("file is not a database", str(path))
    del writer._db.rollback
    await writer._db.rollback()


@pytest.mark.parametrize("reason", [None, "io", "corrupt"])
async def test_last_connection_takes_the_wal_with_it_unless_there_is_damage(path, reason):
    """Its checkpoint would spread that: the file stays as it was found."""
    writer = Writer(path, Recorder("run", lambda *_: None))
    await writer.open(("run", *RUN))
    offer(writer, [1])
    assert await writer.flush()
    writer.keep_failing(reason, reason)
    before = path.read_bytes()
    await writer.disconnect()

    is_damaged = reason == "corrupt"
    assert path.with_name(f"{path.name}-wal").exists() is is_damaged
    assert (path.read_bytes() == before) is is_damaged


async def test_disk_that_fails_row_by_row_drops_no_record(path, writers, monkeypatch):
    """A batch is written row by row because one of them cannot be stored; the disk's failure is not theirs."""
    writer = await writers("run")
    execute = writer._db.execute

    async def refuse(statement, *values):
        if statement == rows.TRACES.insert:
            raise sqlite3.OperationalError("disk I/O error")
        return await execute(statement, *values)

    offer(writer, [1])
    offer(writer, [2], capability=None)
    with monkeypatch.context() as patch:
        patch.setattr(writer._db, "execute", refuse)
        assert not await writer.flush()
    assert query(path, "SELECT * FROM gaps") == []
    assert await writer.flush()

    assert query(path, "SELECT number FROM traces") == [(1,)]
    assert query(path, "SELECT reason, count FROM gaps") == [("poison", 1)]


async def test_store_that_cannot_be_opened_says_why(tmp_path):
    """In the words of SQLite, and leaves no connection behind."""
    path = tmp_path / "telemetry.db"
    path.write_bytes(b"no database" * 1_000)
    writer = Writer(path, Recorder("run", lambda *_: None))

    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        await writer.open(("run", *RUN))
    with pytest.raises(ValueError, match="connection"):
        await writer._db.execute("SELECT 1")


@pytest.mark.parametrize("change", ["UPDATE state SET value = 2 WHERE name = 'run'", "DELETE FROM state"])
async def test_run_is_not_ended_where_its_records_are_not(path, change):
    """Of a database that others have put back in time: what the run committed is in its box, which must stay."""
    writer = Writer(path, Recorder("run", lambda *_: None))
    await writer.open(("run", *RUN))
    offer(writer, [1, 2, 3])
    assert await writer.flush()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(change)

    assert not await writer.close("run", within_s=2)
    assert (writer.failing, writer.error) == ("corrupt", "it lacks what was committed")


async def test_run_of_a_store_that_was_opened_again_is_ended(path, writers):
    """Although this connection has committed nothing: the one before it had."""
    first = await writers("run")
    offer(first, [1, 2, 3])
    assert await first.flush()
    again = Writer(path, Recorder("run", lambda *_: None), settled=first.settled)
    await again.open(("run", *RUN))

    assert await again.close("run", within_s=2)
    assert query(path, "SELECT end_reason FROM runs") == [(rows.CLEAN,)]


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


async def test_tables_of_others_are_blamed_for_a_full_file_alone(path, writers):
    """Another error is told as what it is, whatever else is in the database."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (text)")
    writer = await writers("run")
    await writer._db.execute("PRAGMA query_only = ON")
    offer(writer, [1])

    assert not await writer.flush()
    assert writer.failing == "read_only"


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


async def test_bit_that_flips_in_the_schema_is_damage(path, writers):
    """SQLite cites it in words that are not UTF-8."""
    writer = await writers("run")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA writable_schema = on")
        flipped = "CAST(x'43524541544520D441424C45' AS TEXT)"  # CREATE TABLE, but for a bit
        other.execute(f"UPDATE sqlite_schema SET sql = {flipped} || substr(sql, 13) WHERE name = 'traces'")
        other.execute("PRAGMA schema_version = 1000")  # so that others read it again
        other.commit()
    offer(writer, [1])

    assert not await writer.flush()
    assert (writer.failing, writer.must_reopen) == ("corrupt", True)
    assert "malformed database schema" in writer.error


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
