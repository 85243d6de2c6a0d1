"""Writers of a store without their thread, and what tests hand over to them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import AsyncExitStack, closing

import pytest
from support.records import a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store.writer import Writer

RUN = (None, "0", os.getpid(), None, 0, "x.py", "library")


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


class Counted(Writer):
    """A writer that counts its flushes, and writes no row by itself."""

    flushes = 0

    async def flush(self, **how) -> bool:
        """Counts it."""
        self.flushes += 1
        return await super().flush(**how)

    async def _insert_singly(self, *_):
        raise AssertionError("row by row")
