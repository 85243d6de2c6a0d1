"""The one place where a record enters: numbered, buffered, and, for a notable one, the writer woken.

`active` is what the instruments write to. Without a store it is a recorder in memory, whose buffers are the rings
themselves; `telemetry.open` installs one that a writer empties, and its close puts a fresh one in memory back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import Final

from hearthnet.constants import LOG_RING_BUFFER, TRACE_RING_BUFFER
from hearthnet.observability.buffer import Buffer
from hearthnet.observability.ids import new_trace_id
from hearthnet.observability.record import LogRecord, TraceRecord

__all__ = ["Recorder", "active", "install"]

# Ten seconds at 2,000 traces a second, the longest lock by another process that must cost nothing.
STORE_TRACES: Final = 20_000
STORE_LOGS: Final = 10_000


class Recorder:
    """Numbers the records of one run and holds those that are not committed.

    Args:
        run_id: the run's ULID.
        first_seq: the number of the next record; above every number already in the database.
        wake: called, at once, when a notable record came in or a buffer is half full. None: nobody empties the
            buffers, they are the rings.
    """

    def __init__(self, run_id: str, first_seq: int = 1, wake: Callable[[], None] | None = None) -> None:
        self.run_id = run_id
        self.next_seq = count(first_seq).__next__
        self.traces: Buffer[TraceRecord] = Buffer(STORE_TRACES if wake else TRACE_RING_BUFFER)
        self.logs: Buffer[LogRecord] = Buffer(STORE_LOGS if wake else LOG_RING_BUFFER)
        self._wake = wake

    def offer_trace(self, record: TraceRecord) -> None:
        """Takes a finished trace."""
        traces = self.traces
        traces.offer(record)
        if self._wake is not None and (record.notable or len(traces) == STORE_TRACES // 2):
            self._wake()

    def offer_log(self, record: LogRecord) -> None:
        """Takes a log record."""
        logs = self.logs
        logs.offer(record)
        if self._wake is not None and (record.notable or len(logs) == STORE_LOGS // 2):
            self._wake()


active: Recorder = Recorder(new_trace_id())


def install(recorder: Recorder | None) -> None:
    """Makes `recorder` the one that the instruments write to; None stands for a fresh one in memory."""
    global active
    active = Recorder(new_trace_id()) if recorder is None else recorder


# A forked child has no telemetry thread: it must not fill a buffer that nobody empties, nor use its parent's numbers.
os.register_at_fork(after_in_child=lambda: install(None))
