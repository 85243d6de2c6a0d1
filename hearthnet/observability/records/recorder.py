"""The entry point of records: numbers them, writes them to the black box, buffers them, and wakes the writer.

The instruments write to `runtime.recorder`. Without a store it is one in memory, whose buffers are the rings;
`telemetry.open` installs one that a writer empties, and its close puts a fresh one in memory back.

A buffer is a bounded queue from any thread to one writer: when it is full, the oldest record is dropped and counted.

Guarantees:
    - `Buffer.offer` takes no lock and never waits, unless it must drop a record.
    - Every record offered is, at any moment, in exactly one of: the queue, the batch in flight, the committed rows,
      the count of dropped records.
    - A record leaves only after `confirm`, so a commit that fails loses nothing.
Assumes:
    - `deque.append`, `deque.popleft` and `list(deque)` are atomic (CPython's interpreter lock; its C code runs no
      Python between two items).
    - One thread calls `take`, `confirm` and `take_dropped`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from operator import itemgetter
from time import monotonic_ns

from hearthnet.constants import LOG_RING_BUFFER, TRACE_RING_BUFFER
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.record import (
    LOG_COLUMNS,
    TRACE_COLUMNS,
    LogValues,
    TraceFields,
    TraceValues,
    fields_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from hearthnet.observability.records.blackbox import BlackBox
    from hearthnet.observability.records.stored import LogRecord, TraceRecord

__all__ = ["Buffer", "LazyRecorder", "Recorder"]

# Ten seconds at 2,000 traces a second, the longest lock by another process that must cost nothing.
STORE_TRACES: Final = 20_000
STORE_LOGS: Final = 10_000
TRACE_BYTES: Final = 600  # of one in the box, about
LOG_BYTES: Final = 400
_TRACE_NOTABLE: Final = TRACE_COLUMNS.index("notable")
_LOG_NOTABLE: Final = LOG_COLUMNS.index("notable")
_trace_number: Final = itemgetter(TRACE_COLUMNS.index("number"))
_log_number: Final = itemgetter(LOG_COLUMNS.index("number"))


class Buffer:
    """Holds at most `capacity` records that the writer has not committed yet.

    Attributes:
        queue: those that no batch has, oldest first.
        in_flight: those of the batch last taken.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self.queue: deque[Any] = deque()
        self.in_flight: list[Any] = []
        self._dropped = 0
        # Re-entrant: a signal handler may log while its own thread is here.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.queue) + len(self.in_flight)

    def offer(self, record: object) -> int:
        """Appends a record, dropping the oldest if full. Returns the number of records held. 0.1 us."""
        self.queue.append(record)
        count = len(self.queue) + len(self.in_flight)
        if count > self.capacity:
            self.make_room()
        return count

    def make_room(self) -> None:
        """Drops the oldest records beyond the capacity."""
        with self._lock:
            # Only from the queue: the batch in flight may be committed already.
            while self.queue and len(self.queue) + len(self.in_flight) > self.capacity:
                try:
                    self.queue.popleft()
                except IndexError:  # the writer took the rest between the check and the call
                    return
                self._dropped += 1

    def take(self, limit: int) -> list[Any]:
        """Returns the oldest records, at most `limit`, beginning with those of a batch that was never confirmed."""
        with self._lock:
            self.put_back(limit)
            # The queue only shrinks under this lock, so it holds at least as many as were counted.
            missing = min(limit - len(self.in_flight), len(self.queue))
            popleft = self.queue.popleft
            self.in_flight.extend([popleft() for _ in range(missing)])
            return list(self.in_flight)

    def put_back(self, keep: int) -> None:
        """Returns all but the oldest `keep` records of the batch last taken to the queue's head."""
        with self._lock:
            self.queue.extendleft(reversed(self.in_flight[keep:]))
            del self.in_flight[keep:]

    def confirm(self) -> None:
        """Removes the batch last taken: it is committed."""
        with self._lock:
            self.in_flight.clear()

    def snapshot(self) -> list[Any]:
        """Returns the records that are not committed, oldest first."""
        with self._lock:
            return [*self.in_flight, *self.queue]

    def take_dropped(self) -> int:
        """Returns the number of records dropped since the last call."""
        with self._lock:
            lost, self._dropped = self._dropped, 0
            return lost


class Recorder:
    """Numbers the records of one run and holds the pending ones.

    Args:
        run_id: the run's ULID.
        wake: wakes the writer. None: there is no writer, the buffers are the rings. Called with two flags: commit at
            once, for a notable record or a crowd; it is a crowd, half of the buffer or of the box. With neither
            for the first record after `is_idle` was set.

    Attributes:
        box: keeps records through a kill; None: there is none.
        wake: as above. The writer's pacer sets its own.
        is_idle: set by the writer when it waits for the next record.
    """

    def __init__(self, run_id: str, wake: Callable[[bool, bool], None] | None = None) -> None:
        self.run_id = run_id
        self.numbers = count(1)
        self.traces = Buffer(STORE_TRACES if wake else TRACE_RING_BUFFER)
        self.logs = Buffer(STORE_LOGS if wake else LOG_RING_BUFFER)
        self.box: BlackBox | None = None
        self.is_idle = False
        self.wake = wake
        self._made_ns = monotonic_ns()
        self.many_traces = self.traces.capacity // 2
        self.many_logs = self.logs.capacity // 2

    def wake_for_trace(self) -> None:
        """Wakes the writer for an ordinary trace that was put into the buffer without `record_trace`."""
        is_crowd = len(self.traces) >= self.many_traces  # far below the capacity
        if is_crowd:
            self.traces.make_room()
        if is_crowd or self.is_idle:
            self._wake_writer(is_crowd, is_crowd)

    def record_trace(self, values: TraceValues, number: int = 0) -> TraceFields:
        """Keeps a finished trace, and numbers it if it has no number; returns its record."""
        number = number or next(self.numbers)
        record = (0, self.run_id, number) + values  # noqa: RUF005  # half the time of unpacking
        if self.box is not None:
            self.box.append_trace(record)
        is_crowd = self.traces.offer(record) >= self.many_traces
        if is_crowd or self.is_idle or record[_TRACE_NOTABLE] == 1:
            self._wake_writer(is_crowd or record[_TRACE_NOTABLE] == 1, is_crowd)
        return record

    def record_log(self, values: LogValues) -> None:
        """Numbers and keeps a log record."""
        record = (0, self.run_id, next(self.numbers)) + values  # noqa: RUF005  # as above
        if self.box is not None:
            self.box.append_log(record)
        is_crowd = self.logs.offer(record) >= self.many_logs
        if is_crowd or self.is_idle or record[_LOG_NOTABLE] == 1:
            self._wake_writer(is_crowd or record[_LOG_NOTABLE] == 1, is_crowd)

    def wake_for_log(self, is_notable: bool) -> None:
        """Wakes the writer for an ordinary log record that was put into the buffer without `record_log`."""
        is_crowd = len(self.logs) >= self.many_logs  # far below the capacity
        if is_crowd:
            self.logs.make_room()
        if is_crowd or self.is_idle or is_notable:
            self._wake_writer(is_crowd or is_notable, is_crowd)

    def _wake_writer(self, at_once: bool, is_crowd: bool) -> None:
        if self.wake is not None:
            self.is_idle = False
            self.wake(at_once, is_crowd)

    def pending_fields(self) -> list[TraceFields]:
        """Returns the fields of the traces that are not committed, oldest first."""
        return list(map(fields_of, self.traces.snapshot()))

    def pending_traces(self) -> list[TraceRecord]:
        """Returns the traces that are not committed, oldest first."""
        from hearthnet.observability.records.stored import TraceRecord  # late: few programs read their own records

        return list(map(TraceRecord._make, self.pending_fields()))

    def pending_logs(self) -> list[LogRecord]:
        """Returns the log records that are not committed, oldest first."""
        from hearthnet.observability.records.stored import LogRecord  # late: as above

        return list(map(LogRecord._make, self.logs.snapshot()))

    def pending_numbers(self) -> list[int]:
        """Returns the numbers of the records that are not committed."""
        return [*map(_trace_number, self.traces.snapshot()), *map(_log_number, self.logs.snapshot())]

    def keep_in(self, box: BlackBox) -> None:
        """Writes pending records to `box`, and all further ones."""
        self.box = box
        self.fit(box)
        for trace in self.pending_fields():
            box.append_trace(trace)
        for entry in self.logs.snapshot():
            box.append_log(entry)

    def fit(self, box: BlackBox) -> None:
        """Wakes the writer when the records that are pending take half of this box."""
        self.many_traces = max(1, min(self.traces.capacity // 2, box.header.trace_bytes // 2 // TRACE_BYTES))
        self.many_logs = max(1, min(self.logs.capacity // 2, box.header.log_bytes // 2 // LOG_BYTES))

    def has_pending(self) -> bool:
        """Returns whether any record is not committed."""
        return bool(len(self.traces) or len(self.logs))

    def lag_s(self, mono_ns: int, utc_us: int) -> float:
        """Returns the age in seconds of the oldest pending record; 0 if there is none.

        Args:
            mono_ns: monotonic time now, for traces.
            utc_us: UTC now, for log records. A step of that clock falsifies their age while they are pending, but never
                below zero, nor above the recorder's own age.
        """
        if self.wake is None:  # no writer: records stay in the buffers
            return 0.0
        from hearthnet.observability.records.stored import TraceRecord  # late: as above

        traces, logs = self.traces.snapshot()[:1], self.pending_logs()[:1]
        oldest = [TraceRecord._make(fields_of(kept)) for kept in traces]
        ages = [(mono_ns - trace.started_mono_ns) / 1e9 - trace.duration_ms / 1e3 for trace in oldest]
        ages += [min((utc_us - entry.ts_us) / 1e6, (mono_ns - self._made_ns) / 1e9) for entry in logs]
        return max(0.0, *ages) if ages else 0.0

    def is_filling(self) -> bool:
        """Returns whether a buffer, or the box, is half full."""
        return len(self.traces) >= self.many_traces or len(self.logs) >= self.many_logs


class LazyRecorder:
    """Makes the real recorder when it is used for the first time: by a record or a trace.

    Args:
        make: makes the recorder. Called once.
    """

    def __init__(self, make: Callable[[], Recorder]) -> None:
        self._make = make
        self._made: Recorder | None = None
        # Re-entrant: making one logs.
        self._lock = threading.RLock()
        self._fallback: Recorder | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def again(self) -> LazyRecorder:
        """Returns one that makes a recorder of its own in the same way: for a forked child of this process."""
        return LazyRecorder(self._make)

    def _real(self) -> Recorder:
        with self._lock:
            if self._made is None:
                if self._fallback is not None:  # called by `make` itself
                    return self._fallback
                self._fallback = Recorder(new_trace_id())
                self._made = self._make()
            return self._made
