"""How much one flush commits while more records arrive."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

import pytest

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.record import TraceRecord
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store import rows
from hearthnet.observability.store import writer as writing
from hearthnet.observability.store.writer import Writer

LATE = 5


def record(seq: int) -> TraceRecord:
    """Returns a small trace."""
    return TraceRecord(seq, "run", new_trace_id(), None, "a.b", None, 0, 0, 1.0, "ok", None, 0, b"[]", b"{}")


class Busy(Writer):
    """A writer with another record arriving during each of its first few commits."""

    commits = 0

    async def _commit(self, *batch) -> None:
        await super()._commit(*batch)
        self.commits += 1
        if self.commits <= LATE:
            self._recorder.traces.offer(record(10_000 + self.commits))


@pytest.mark.parametrize(
    ("is_gentle", "buffered", "commits", "left"),
    [(True, 10, 1, 1), (True, 25, 3, 1), (False, 10, LATE + 1, 0), (False, 25, LATE + 1, 0)],
)
async def test_flush_commits_what_there_was(tmp_path, monkeypatch, is_gentle, buffered, commits, left):
    """A flush commits all records that it found, in as many batches as needed; later ones only if a caller waits."""
    async with AsyncExitStack() as stack:
        monkeypatch.setattr(writing, "BATCH_ROWS", 10)
        path = tmp_path / "telemetry.db"
        open_database(path, TELEMETRY).close()
        recorder = Recorder(new_trace_id(), 1, lambda _: None)
        writer = Busy(path, recorder, ring_rows=1_000)
        await writer.open((recorder.run_id, None, "0", os.getpid(), None, rows.now_us(), "x.py", "library"))
        stack.push_async_callback(writer.abandon)
        for number in range(buffered):
            recorder.traces.offer(record(number + 1))
        writer.is_gentle = is_gentle

        assert await writer.flush()
        assert (writer.commits, len(recorder.traces)) == (commits, left)

        writer.is_gentle = False
        assert await writer.flush()
        assert len(recorder.traces) == 0
        async with writer._db.execute("SELECT count(*) FROM traces") as cursor:
            assert await cursor.fetchone() == (buffered + LATE,)
