"""What a writer does at the beginning and the end of its run, and what it keeps straight between two flushes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest
from support.reading import metric
from support.records import a_log, a_trace
from support.writers import RUN, offer, path, query, writers

from hearthnet.database import BUSY_TIMEOUT_S
from hearthnet.errors import StoreError
from hearthnet.observability import metrics
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store import writer as writing
from hearthnet.observability.store.budget import CROWDED, PAGE_BYTES
from hearthnet.observability.store.writer import Writer

__all__ = ["path", "writers"]


@pytest.fixture
def measured():
    """Metrics are on."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))


async def test_run_that_is_not_wanted_any_more_leaves_the_database_as_it_was(path):
    """Its process has stopped while it waited for others: they close the run."""
    writer = Writer(path, Recorder("run", lambda *_: None))
    before = query(path, "SELECT * FROM state ORDER BY name")
    with pytest.raises(StoreError, match="closing"):
        await writer.open(("run", *RUN), lambda: False)

    assert query(path, "SELECT * FROM runs") == []
    assert query(path, "SELECT * FROM state ORDER BY name") == before


async def test_statement_waits_for_other_writers_as_long_as_a_flush_may(writers):
    """For the run's row it waited longer."""
    writer = await writers("run")

    assert await writer._db.execute_fetchall("PRAGMA busy_timeout") == [(BUSY_TIMEOUT_S * 1_000,)]


@pytest.mark.parametrize("last", ["trace", "log"])
async def test_run_that_was_recovered_meanwhile_asks_for_all_that_waits(path, last):
    """Another process took it for dead and has its records: none is written twice, of either kind."""
    traces = [a_trace(1), a_trace(2), *([a_trace(4)] if last == "trace" else [])]
    logs = [a_log(3), *([a_log(4)] if last == "log" else [])]
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(rows.INSERT_RUN, ("run", *RUN))
        other.execute(rows.END_RUN, (1, rows.UNCLEAN, "run"))
        for number, record in enumerate([*traces, *logs], 1):
            table = rows.TRACES if record in traces else rows.LOGS
            other.execute(table.insert, table.with_seq(record, number))
        other.execute("UPDATE state SET value = 4 WHERE name = 'seq'")
    writer = Writer(path, Recorder("run", lambda *_: None))
    for record in traces:
        writer._recorder.traces.offer(record)
    for record in logs:
        writer._recorder.logs.offer(record)
    await writer.open(("run", *RUN))
    offer(writer, [5])

    assert await writer.close("run", within_s=2)
    assert query(path, "SELECT number FROM traces ORDER BY seq")[:2] == [(1,), (2,)]
    assert query(path, "SELECT count(*) FROM (SELECT number FROM traces UNION ALL SELECT number FROM logs)") == [(5,)]


async def test_end_of_a_run_has_its_wear(path):
    """How many commits it made, also where nothing asked for them before."""
    writer = Writer(path, Recorder("run", lambda *_: None))
    await writer.open(("run", *RUN))
    for number in (1, 2, 3):
        offer(writer, [number])
        assert await writer.flush()

    assert await writer.close("run", within_s=2)
    assert query(path, "SELECT commits, end_reason FROM runs") == [(3, rows.CLEAN)]
    assert query(path, "SELECT ended_us > 1000000000000000 FROM runs") == [(1,)]


@pytest.mark.parametrize("batch_bytes", [2_000_000, 20_000, 5_000, 1])
async def test_bytes_of_rows_are_counted_in_full(writers, monkeypatch, batch_bytes):
    """However many batches they take: the WAL is checkpointed after so many."""
    monkeypatch.setattr(writing, "BATCH_BYTES", batch_bytes)
    writer = await writers("run")
    offer(writer, range(1, 41))
    added = []
    monkeypatch.setattr(writer.wal, "add", added.append)
    assert await writer.flush()

    assert sum(added) == 40 * (len(b"[]") + len(b"{}") + 250)


async def test_number_that_never_comes_is_given_up(writers):
    """After two rounds of housekeeping: its thread was stopped half-way."""
    writer = await writers("run")
    offer(writer, [1, 2, 4])
    assert await writer.flush()
    seen = []
    for _ in range(2):
        await writer.record_wear("run")
        seen.append(writer.settled.number)

    assert seen == [2, 4]


async def test_number_that_is_late_at_the_very_beginning_is_waited_for(path, writers):
    """Nothing was dropped: the first record's thread is slow."""
    writer = await writers("run")
    offer(writer, [2, 3])
    assert await writer.flush()
    assert writer.settled.number == 0
    offer(writer, [1])
    assert await writer.flush()

    assert writer.settled.number == 3
    assert query(path, "SELECT value FROM state WHERE name = 'run'") == [(3,)]


async def test_records_of_both_kinds_are_in_the_order_in_which_they_were_made(path, writers):
    """Whatever table they are in, and whichever comes first."""
    writer = await writers("run")
    for number in (1, 2, 4):
        writer._recorder.logs.offer(a_log(number))
    offer(writer, [3, 5])
    assert await writer.flush()
    offer(writer, [6])
    assert await writer.flush()

    rows_of_both = "SELECT seq, number FROM traces UNION ALL SELECT seq, number FROM logs ORDER BY seq"
    assert query(path, rows_of_both) == [(number, number) for number in range(1, 7)]
    assert writer.settled.number == 6


@pytest.mark.parametrize(
    ("is_short", "is_crowded", "failing"),
    [(False, False, None), (False, True, "ceiling"), (True, True, None), (True, False, None)],
)
async def test_tables_of_others_are_in_the_way_only_where_the_file_is_full(
    path, writers, monkeypatch, is_short, is_crowded, failing
):
    """Where the disk has no space, rows of ours make space all the same."""
    writer = await writers("run")
    offer(writer, [1, 2])
    assert await writer.flush()
    asked = iter([True])

    async def is_full(*_):
        return next(asked, False)

    monkeypatch.setattr(writer.quota, "fits", lambda *_: False)
    monkeypatch.setattr(writer.quota, "is_short", is_full)
    monkeypatch.setattr(writer.quota, "is_crowded", lambda: is_crowded)
    monkeypatch.setattr(writer.quota, "is_disk_short", is_short)
    offer(writer, [3])

    assert await writer.flush() == (failing is None)
    assert writer.failing == failing
    assert query(path, "SELECT number FROM traces") == ([(3,)] if failing is None else [(1,), (2,)])


async def test_end_of_a_run_is_tried_again_while_another_process_writes(path):
    """As long as it may take."""
    writer = Writer(path, Recorder("run", lambda *_: None))
    await writer.open(("run", *RUN))
    genuine, tried = writer._db.commit, []

    async def commit():
        tried.append(1)
        if len(tried) == 1:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        await genuine()

    writer._db.commit = commit
    offer(writer, [1])

    assert await writer.close("run", within_s=600)
    assert query(path, "SELECT end_reason FROM runs") == [(rows.CLEAN,)]


PRAGMAS = {
    "synchronous": 2,  # what is committed survives a power cut
    "secure_delete": 1,  # what is evicted is overwritten
    "wal_autocheckpoint": 0,
    "journal_size_limit": 16_000_000,
    "max_page_count": 31_250,
}


async def test_connection_is_set_up_each_time(path, writers):
    """For a fork it is closed, and opened again."""
    writer = await writers("run")
    await writer.disconnect()
    await writer.connect()

    for name, value in PRAGMAS.items():
        assert await writer._db.execute_fetchall(f"PRAGMA {name}") == [(value,)], name
    offer(writer, [1])
    assert await writer.flush()
    assert query(path, "SELECT number FROM traces") == [(1,)]


async def test_gaps_are_bounded(path, writers, monkeypatch):
    """The oldest go."""
    monkeypatch.setattr(writing, "MAX_GAP_ROWS", 3)
    writer = await writers("run")
    for number in range(1, 6):
        offer(writer, [number])
        monkeypatch.setattr(writer._recorder.traces, "_dropped", number)
        assert await writer.flush()

    assert query(path, "SELECT count FROM gaps ORDER BY seq") == [(3,), (4,), (5,)]
    assert query(path, "SELECT count(DISTINCT seq) FROM (SELECT seq FROM gaps UNION ALL SELECT seq FROM traces)") == [
        (8,)
    ]


class BySingleRows(Writer):
    """A writer that counts how often it writes row by row."""

    times = 0

    async def _insert_singly(self, *batch):
        self.times += 1
        return await super()._insert_singly(*batch)


async def test_batch_after_a_bad_one_takes_the_fast_way_again(path, writers):
    """Row by row is slow: it is for the batch with a record that cannot be stored."""
    writer = await writers("run", BySingleRows)
    offer(writer, [1])
    offer(writer, [2], capability=None)
    assert await writer.flush()
    assert writer.times == 1
    offer(writer, [3])
    assert await writer.flush()

    assert writer.times == 1
    assert query(path, "SELECT number FROM traces") == [(1,), (3,)]


async def test_failures_in_a_row_need_another_connection_and_others_do_not(writers):
    """What succeeds in between shows that the connection is good."""
    writer = await writers("run")
    genuine = writer._db.commit
    broken = [True, False, True, True]

    async def commit():
        if broken.pop(0):
            raise sqlite3.OperationalError("disk I/O error")
        await genuine()

    writer._db.commit = commit
    seen = []
    for number in range(1, 5):
        offer(writer, [number])
        seen.append((await writer.flush(), writer.must_reopen))

    assert seen == [(False, False), (True, False), (False, False), (False, True)]


@pytest.mark.usefixtures("measured")
async def test_checkpoint_that_fails_is_no_failed_flush(writers, monkeypatch):
    """What was to be stored is committed; it is counted."""
    writer = await writers("run")
    before = metric('hearthnet_telemetry_flush_failures_total{reason="io"}')

    async def refuse(_):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    monkeypatch.setattr(writer.quota, "has_grown", refuse)
    offer(writer, [1])

    assert await writer.flush()
    assert writer.failing is None
    assert metric('hearthnet_telemetry_flush_failures_total{reason="io"}') - before == 1


async def test_reader_that_pins_the_wal_is_why_nothing_is_written(path, writers, monkeypatch, logged):
    """The records stay until it ends; who it is is told."""
    writer = await writers("run")

    async def refuse(*_):
        return False

    offer(writer, [1])
    with monkeypatch.context() as patch:
        patch.setattr(writer.wal, "has_space", refuse)
        assert not await writer.flush()
    (told,) = [record for record in logged if record.getMessage() == "telemetry cannot be written"]

    assert (writer.failing, writer.must_reopen, told.reason, told.held_by) == ("wal_pinned", False, "wal_pinned", [])
    assert await writer.flush()
    assert query(path, "SELECT number FROM traces") == [(1,)]


async def test_suspicion_is_looked_into_once(path, writers):
    """Of damage that another process or the doctor has seen; what is whole is written on."""
    writer = await writers("run")
    writer.is_suspect = True
    offer(writer, [1])
    assert await writer.flush()
    assert not writer.is_suspect

    await writer._db.execute("PRAGMA wal_checkpoint(FULL)")
    with path.open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(b"\xa5" * (path.stat().st_size - PAGE_BYTES))
    writer.is_suspect = True
    offer(writer, [2])
    assert not await writer.flush()
    assert (writer.failing, writer.must_reopen) == ("corrupt", True)


@pytest.mark.parametrize(
    ("is_foreign", "is_short", "reason"),
    [(True, False, "ceiling"), (True, True, "disk_full"), (False, False, "disk_full")],
)
async def test_full_file_is_told_from_a_full_disk(path, writers, monkeypatch, is_foreign, is_short, reason):
    """SQLite has one word for both: tables of others take the file's space, or the disk has none."""
    if is_foreign:
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("CREATE TABLE mine (text)")
            other.execute("INSERT INTO mine VALUES (zeroblob(100000))")
    writer = await writers("run")

    async def refuse():
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(writer._db, "commit", refuse)
    monkeypatch.setattr(writer.quota, "_grants", lambda _: not is_short)
    offer(writer, [1])

    assert not await writer.flush()
    assert writer.failing == reason
    assert (writer.error == CROWDED) == (reason == "ceiling")


@pytest.mark.usefixtures("measured")
async def test_what_is_written_and_dropped_is_counted(writers, monkeypatch):
    """By kind."""
    names = [
        'hearthnet_telemetry_written_total{kind="trace"}',
        'hearthnet_telemetry_written_total{kind="log"}',
        'hearthnet_telemetry_dropped_total{reason="buffer_full"}',
        'hearthnet_telemetry_dropped_total{reason="poison"}',
        "hearthnet_telemetry_commits_total",
    ]
    before = [metric(name) for name in names]
    writer = await writers("run")
    offer(writer, [1, 2])
    writer._recorder.logs.offer(a_log(3))
    monkeypatch.setattr(writer._recorder.logs, "_dropped", 7)
    assert await writer.flush()
    after = [metric(name) for name in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 7, 0, 1]


@pytest.mark.usefixtures("measured")
async def test_record_that_cannot_be_stored_is_dropped_and_not_written(writers, monkeypatch):
    """Counted once, however often its batch is tried: of a commit that fails, nothing is counted."""
    names = [
        'hearthnet_telemetry_written_total{kind="trace"}',
        'hearthnet_telemetry_written_total{kind="log"}',
        'hearthnet_telemetry_dropped_total{reason="poison"}',
    ]
    before = [metric(name) for name in names]
    writer = await writers("run")
    offer(writer, [1, 2])
    offer(writer, [3], capability=None)
    writer._recorder.logs.offer(a_log(4))
    writer._recorder.logs.offer(a_log(5, level=None))
    writer._recorder.logs.offer(a_log(6, logger=None))

    async def refuse():
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(writer._db, "commit", refuse)
        assert not await writer.flush()
    assert [metric(name) for name in names] == before
    assert await writer.flush()
    offer(writer, [7])
    assert await writer.flush()

    after = [metric(name) for name in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 1, 3]
