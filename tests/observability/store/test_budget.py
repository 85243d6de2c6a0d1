"""The disk is probed for space before the file grows: in advance, not for each commit, and again after a while."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest
from support.records import a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.store import budget, rows
from hearthnet.observability.store.ring import RECOUNT
from hearthnet.observability.store.writer import Writer

RING = 2_000
BATCH = 200


@pytest.fixture
def asked(monkeypatch):
    """Records the size of each probe; `limit` refuses larger ones."""
    sizes: list[int] = []
    real = os.posix_fallocate

    def ask(fd, offset, length):
        if length % 4_096 == 0:  # whole pages: the WAL's reserve is not a probe
            sizes.append(length)
        if length > limit["bytes"]:
            raise OSError(28, "No space left on device")
        real(fd, offset, length)

    limit = {"bytes": 1 << 40}
    monkeypatch.setattr(os, "posix_fallocate", ask)
    ask.sizes, ask.limit = sizes, limit
    return ask


def record(seq: int) -> TraceRecord:
    """Returns a trace of half a kilobyte."""
    spans = b'[{"name":"' + b"x" * 400 + b'"}]'
    return a_trace(seq, "run", seq=seq, trace_id=new_trace_id(), spans=spans)


async def written(path, batches: int, between=lambda: None) -> Writer:
    """Commits `batches` batches into a full ring whose file has no free page."""
    recorder = Recorder(new_trace_id(), lambda *_: None)
    writer = Writer(path, recorder, ring_rows=RING)
    await writer.open((recorder.run_id, None, "0", os.getpid(), None, rows.now_us(), "x.py", "library"))
    for batch in range(batches):
        for number in range(batch * BATCH + 1, (batch + 1) * BATCH + 1):
            recorder.traces.offer(record(number))
        between()
        assert await writer.flush()
    await writer.disconnect()
    return writer


@pytest.fixture
def full(tmp_path):
    """A store with a full ring and no free page."""
    path = tmp_path / "telemetry.db"
    with closing(open_database(path, TELEMETRY)) as db:
        made = f"INSERT INTO traces ({rows.TRACES.columns}) VALUES ({', '.join('?' * len(TraceRecord._fields))})"
        db.execute("BEGIN")
        for seq in range(1, RING + 1):
            values = record(seq)
            db.execute(made, (*values[:-2], values[-2].decode(), values[-1].decode()))
        db.execute("UPDATE state SET value = ? WHERE name = 'seq'", (RING,))
        for statement in RECOUNT:
            db.execute(statement)
        db.execute("COMMIT")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def pages_of(path) -> int:
    """Returns the number of pages of the database."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute("PRAGMA page_count").fetchone()[0]


def test_full_ring_asks_once_and_keeps_its_size(full, asked):
    """By the estimate every batch might need pages; the disk is probed once, and the file keeps its size."""
    before = pages_of(full)
    asyncio.run(written(full, 30))

    assert len(asked.sizes) == 1
    assert pages_of(full) - before < 40
    with closing(sqlite3.connect(full)) as db:
        assert db.execute("SELECT count(*), max(seq) FROM traces").fetchone() == (RING, RING + 30 * BATCH)


def test_answer_is_not_believed_for_ever(full, asked, monkeypatch):
    """After ten seconds other programs may have filled the disk."""
    now = [1_000.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])

    def later():
        now[0] += budget._GRANT_S * 0.6

    asyncio.run(written(full, 10, later))

    assert 4 <= len(asked.sizes) <= 6


def test_disk_that_has_little_is_asked_for_what_is_needed(full, asked):
    """If the disk grants the needed pages only, the file still grows."""
    asked.limit["bytes"] = budget._GRANT_PAGES * 4_096
    writer = asyncio.run(written(full, 3))

    assert not writer.quota.is_tight
    assert len(asked.sizes) == 6


def test_disk_that_has_nothing_is_written_in_place(full, asked):
    """New rows replace the oldest; the file keeps its size."""
    asked.limit["bytes"] = 0
    before = pages_of(full)
    writer = asyncio.run(written(full, 3))

    assert writer.quota.is_tight
    assert pages_of(full) == before


@pytest.mark.parametrize(("more", "free", "is_asked"), [(0, 0, False), (1, 1, False), (1, 0, True), (500, 0, True)])
async def test_more_than_was_granted_is_asked_for_again(tmp_path, asked, monkeypatch, more, free, is_asked):
    """By the size that the file would have: what is free in it is not asked for."""
    monkeypatch.setattr(budget.time, "monotonic", lambda: 1_000.0)
    quota, granted = budget.DiskQuota(tmp_path / "telemetry.db", budget.Budget(256)), 50 + budget._GRANT_PAGES

    async def is_short(free, needed):
        db = SimpleNamespace(execute_fetchall=AsyncMock(return_value=[(100, free)]))
        return await quota.is_short(db, -(-(needed - budget.pages_for(0)) * 4_096 * 2 // 3))

    assert not await is_short(0, 50)
    assert asked.sizes == [granted * 4_096]
    assert not await is_short(free, granted + more)
    assert asked.sizes[1:] == [(granted + more + budget._GRANT_PAGES) * 4_096] * is_asked
