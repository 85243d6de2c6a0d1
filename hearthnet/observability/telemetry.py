"""The public entry point: opens the store, runs its writer in a thread of its own, and closes it.

    async with telemetry.open(config.observability) as t:      with telemetry.open(config.observability) as t:
        …                                                          …

`open` also configures logging and metrics. The thread has an event loop of its own, so records are committed whatever
the program's loop is doing. If the store cannot be opened, the program runs on, telemetry is served from memory, and
the thread keeps trying. A second process with the same store writes a box of its own, which the first one recovers.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, Self

from hearthnet import __version__
from hearthnet.constants import DATABASE
from hearthnet.errors import HearthNetError, StoreError
from hearthnet.forensics import box as layout
from hearthnet.observability import logging as node_logging
from hearthnet.observability import metrics
from hearthnet.observability.records.blackbox import BlackBox, box_path, new_header
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.record import TraceRecord
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.records.tracked import tracked
from hearthnet.observability.redaction import rules as redaction
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.budget import Budget, disk_bytes
from hearthnet.observability.store.lock import StoreInUseError, StoreLock
from hearthnet.observability.store.metrics_bridge import MetricsBridge
from hearthnet.observability.store.pacer import Pace
from hearthnet.observability.store.query.stats import capability_stats
from hearthnet.observability.store.reader import ANY, Reader, TraceFilter
from hearthnet.observability.store.recovery.recover import Recovery
from hearthnet.observability.store.rows import Run, now_us
from hearthnet.observability.store.thread import StoreThread
from hearthnet.observability.tracing import Trace

if TYPE_CHECKING:
    from hearthnet.config import ObservabilityConfig

__all__ = ["DATABASE", "Telemetry", "open", "opened"]

log = node_logging.get_logger(__name__)

_CLOSE_TIMEOUT_S: Final = 2.0  # in which a clean stop drains, checkpoints and closes
_OPEN_TIMEOUT_S: Final = 30.0  # for a slow card, a large store, a full box; the port opens after it


def open(config: ObservabilityConfig, *, node_id: str | None = None) -> Telemetry:  # noqa: A001  # the spec's name
    """Returns telemetry for these settings; `with` or `async with` starts it."""
    return Telemetry(config, node_id)


def opened() -> Telemetry | None:
    """Returns the telemetry that this process has open."""
    found: Telemetry | None = runtime.telemetry
    return found


class Telemetry:
    """Records everything until it is closed.

    Attributes:
        run_id: of this run.
    """

    def __init__(self, config: ObservabilityConfig, node_id: str | None = None) -> None:
        self._config = config
        self._node_id = node_id
        self.run_id = new_trace_id()
        self._error: str | None = None
        self._budget = Budget(config.max_disk_mb)
        self._reader: Reader | None = None
        self._recorder = Recorder(self.run_id)
        self._thread: StoreThread | None = None
        self._lock: StoreLock | None = None
        self._stop_refreshing: Callable[[], None] = lambda: None
        self._metrics = MetricsBridge()
        self._is_open = False
        self._pid: int | None = None

    @property
    def error(self) -> str | None:
        """Why nothing is written to telemetry.db at present, or None."""
        thread = self._thread
        if self._error is not None or thread is None:
            return self._error
        return thread.error or (thread.writer.failing if thread.writer is not None else None)

    @property
    def data_dir(self) -> Path | None:
        """The store's folder."""
        return self._config.data_dir

    @property
    def recovered(self) -> Recovery:
        """The records that the last opening recovered from boxes of runs that did not stop cleanly."""
        return Recovery() if self._thread is None else self._thread.recovered

    # --- opening and closing

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def start(self) -> None:
        """Configures logging and metrics and opens the store; if that fails, telemetry is kept in memory.

        The records in boxes of earlier runs are in the database when this returns.

        Raises:
            RuntimeError: raised when this process has telemetry open already: the instruments have one destination.
        """
        if (is_open := runtime.telemetry is not None) or self._pid is not None:
            raise RuntimeError("telemetry is open already" if is_open else "make a new one to open again")
        self._pid = os.getpid()
        runtime.telemetry = self
        tracked.add(self)
        try:
            self._configure()
        except BaseException:  # a setting that cannot be: the next opening must not be told that this one is open
            runtime.telemetry = None
            raise
        runtime.install(self._recorder)
        self._stop_refreshing = metrics.on_scrape(self._refresh_metrics)

    def _configure(self) -> None:
        redaction.configure(self._config.redact_keys, self._config.redact_patterns)  # before anything is recorded
        node_logging.configure(self._config)
        if (file := node_logging.log_file()) is not None:
            file.limit(self._budget.rest)
        metrics.configure(self._config)
        runtime.slow_ms = self._config.slow_ms
        self._is_open = True
        atexit.register(self.close)
        try:
            self._start_store()
        except (HearthNetError, sqlite3.Error) as error:
            log.warning("telemetry is kept in memory only", extra={"reason": str(error)})

    def _start_store(self) -> None:
        directory = self._config.data_dir
        if directory is None:
            self._error = "no data_dir is configured"
            raise StoreError(self._error)
        path = directory / DATABASE
        self._lock = lock = StoreLock(directory)
        run: Run = (self.run_id, self._node_id, __version__, os.getpid(), layout.this_boot() or None, now_us())
        recorder = Recorder(self.run_id, 1, self._wake)
        pace = Pace(self._config.flush_interval_s, self._config.eco, self._config.keep_free_mb)
        thread = StoreThread(path, recorder, run, self._budget, pace, lock)
        try:
            self._thread, self._recorder = thread, recorder
            thread.start(_OPEN_TIMEOUT_S)
        except StoreInUseError as error:
            self._thread, self._recorder = None, Recorder(self.run_id)
            self._error = error.message
            self._make_secondary_box(directory)
            raise
        finally:
            if self._thread is not None:
                self._reader = Reader(path)
                runtime.recent = self._recent

    def _wake(self, at_once: bool) -> None:
        if self._thread is not None:
            self._thread.pacer.wake(at_once)

    def _make_secondary_box(self, directory: Path) -> None:
        """Creates the box of a process that does not write the store, if the budget has space for it."""
        sizes = self._budget.secondary_box()
        path = box_path(directory, self.run_id)
        try:
            if sum(box.stat().st_size for box in layout.boxes_in(directory)) + sizes.total > self._budget.boxes:
                self._error = f"{self._error}, and there are as many black boxes as max_disk_mb allows"
                return
            header = new_header(layout.LIBRARY, self.run_id, __version__, self._node_id, sizes)
            self._recorder.box = BlackBox(path, header)
        except OSError as error:
            log.warning("there is no black box", extra={"error": str(error)})

    def close(self) -> None:
        """Commits the rest and marks the run clean, within 2 s; later records stay in memory. Idempotent."""
        if not self._is_open or os.getpid() != self._pid:  # a forked child has nothing to close
            return
        self._is_open = False
        atexit.unregister(self.close)
        self._stop_refreshing()
        runtime.recent = None
        if self._reader is not None:
            # First, because SQLite leaves -wal and -shm behind while a reader is connected.
            self._reader.close()
        node_logging.log_dropped(all_of_them=True)  # while the store can still record them
        runtime.install(None)  # before the drain, so that new records cannot prolong it
        if self._thread is not None:
            self._thread.stop(_CLOSE_TIMEOUT_S)
        self._keep_uncommitted()
        self._close_box()
        node_logging.shutdown()
        runtime.telemetry = None

    def renew_in_child(self) -> None:
        """Releases the child's descriptor of the store's lock; the parent's keeps the lock."""
        if self._lock is not None:
            self._lock.release()

    def _close_box(self) -> None:
        """Deletes the box if its records are committed; else the next start, or the lock's holder, recovers it."""
        box = self._recorder.box
        if box is None:
            return
        if self._thread is None:
            box.note_ended(now_us())
        box.close(remove=self._thread is not None and self._thread.is_clean)

    def _keep_uncommitted(self) -> None:
        """Keeps in memory the records that arrived while the writer was ending, and those it could not commit.

        The box has them too, for the next start. Without a box they are dropped from the store: counted, and logged in
        the JSON log, the one sink that is still open.
        """
        traces, logs = self._recorder.traces.snapshot(), self._recorder.logs.snapshot()
        for record in traces:
            runtime.recorder.traces.offer(record)
        for entry in logs:
            runtime.recorder.logs.offer(entry)
        if self._thread is None or not (traces or logs):
            return
        is_kept = self._recorder.box is not None and not self._thread.is_clean
        if not is_kept:
            metrics.telemetry_dropped_total.labels(reason="closed").inc(len(traces) + len(logs))
        fields = {"traces": len(traces), "logs": len(logs), "in_black_box": is_kept}
        log.warning("records were not committed", extra=fields)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Waits until all that was recorded before this call is committed; returns False after `timeout_s`."""
        return self._thread.flush(timeout_s) if self._thread is not None else not self._recorder.has_pending()

    # --- reading

    def _recent(self, n: int) -> list[TraceRecord]:
        return self.find(n, ANY)

    def pending(self) -> list[TraceRecord]:
        """Returns the traces that are not committed yet, oldest first."""
        return self._recorder.pending_traces()

    def find(self, n: int, wanted: TraceFilter) -> list[TraceRecord]:
        """Returns the newest `n` traces that match, newest first, pending ones included."""
        pending = self.pending()  # before the query: see Reader.newest
        if self._reader is not None:
            try:
                return self._reader.newest(pending, n, wanted)
            except StoreError as error:
                log.warning("telemetry.db cannot be read", extra={"reason": error.message})
        return [record for record in reversed(pending) if wanted.accepts(record)][:n]

    def traces(self, n: int, wanted: TraceFilter = ANY) -> list[Trace]:
        """Returns the result of `find` as `Trace` objects."""
        return [Trace.from_record(record) for record in self.find(n, wanted)]

    def capability_stats(self) -> list[dict[str, Any]]:
        """Returns statistics by capability of the committed traces; empty without a database. Takes 30 ms."""
        try:
            return capability_stats(self._reader) if self._reader is not None else []
        except StoreError as error:
            log.warning("telemetry.db cannot be read", extra={"reason": error.message})
            return []

    def waiting(self) -> tuple[int, int, float]:
        """Returns how many traces and log records are pending, and the age of the oldest in seconds."""
        recorder = self._recorder
        return len(recorder.traces), len(recorder.logs), recorder.lag_s(monotonic_ns(), now_us())

    def _refresh_metrics(self) -> None:
        writer = None if self._thread is None else self._thread.writer
        self._metrics.refresh(self.waiting(), self._recorder.box, writer, self.disk_bytes())

    def disk_bytes(self) -> dict[str, int]:
        """Returns the bytes on disk by part of the budget: database, wal, box, quarantine, logs."""
        directory, log_dir = self._config.data_dir, self._config.log_dir
        return disk_bytes(directory, log_dir)
