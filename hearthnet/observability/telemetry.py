"""The public way in: opens the store, runs its writer in a thread of its own, and closes it.

    async with telemetry.open(config.observability) as t:      with telemetry.open(config.observability) as t:
        …                                                          …

`open` also configures logging and metrics. The thread has an event loop of its own, so records are committed whatever
the program's loop is doing. Where the store cannot be opened the program runs on, and telemetry answers from memory.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from hearthnet import __version__
from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import DiskFullError, StoreError
from hearthnet.files import make_private_dir
from hearthnet.observability import logging as node_logging
from hearthnet.observability import metrics, tracing
from hearthnet.observability import recorder as recording
from hearthnet.observability.ids import new_trace_id
from hearthnet.observability.record import TraceRecord
from hearthnet.observability.recorder import Recorder
from hearthnet.observability.store.reader import ANY, Reader, TraceFilter
from hearthnet.observability.store.rows import now_us
from hearthnet.observability.store.writer import Run, Writer
from hearthnet.observability.tracing import Trace

if TYPE_CHECKING:
    from hearthnet.config import ObservabilityConfig

__all__ = ["Telemetry", "open"]

log = node_logging.get_logger(__name__)

DATABASE: Final = "telemetry.db"
_CLOSE_TIMEOUT_S: Final = 2.0  # a clean stop is drained, checkpointed and closed within this
_OPEN_TIMEOUT_S: Final = 10.0
_FLUSH_POLL_S: Final = 0.002  # a commit takes a millisecond or two; only tests and shutdown wait for one


def open(config: ObservabilityConfig, *, node_id: str | None = None) -> Telemetry:  # noqa: A001  # the spec's name
    """Returns telemetry for these settings; it starts with `with` or `async with`."""
    return Telemetry(config, node_id)


_opened: Telemetry | None = None


class Telemetry:
    """Records everything until it is closed.

    Attributes:
        run_id: of this life of the process.
        error: why there is no store and records stay in memory, or None.
    """

    def __init__(self, config: ObservabilityConfig, node_id: str | None = None) -> None:
        self._config = config
        self._node_id = node_id
        self.run_id = new_trace_id()
        self.error: str | None = None
        self._lock_fd = -1
        self._reader: Reader | None = None
        self._recorder = Recorder(self.run_id)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._work = asyncio.Event()
        self._stopping = False
        self._wake_pending = False
        self._stop_refreshing: Callable[[], None] = lambda: None
        self._lost_lines_seen = 0
        self._is_open = False
        self._pid: int | None = None

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
        """Configures logging and metrics and opens the store; a store that cannot be opened leaves it in memory.

        Raises:
            RuntimeError: raised when this process has telemetry open already: the instruments write to one place.
        """
        global _opened
        if _opened is not None or self._pid is not None:
            raise RuntimeError("telemetry is open already" if _opened is not None else "make a new one to open again")
        _opened = self
        self._pid = os.getpid()
        node_logging.configure(self._config)
        metrics.configure(self._config)
        tracing.set_slow_ms(self._config.slow_ms)
        self._is_open = True
        atexit.register(self.close)
        try:
            self._start_store()
        except (StoreError, DiskFullError, sqlite3.Error) as error:
            self.error = str(error)
            self._unlock()
            recording.install(self._recorder)
            log.warning("telemetry is kept in memory only", extra={"reason": self.error})

    def _start_store(self) -> None:
        directory = self._config.data_dir
        if directory is None:
            raise StoreError("no data_dir is configured")
        path = directory / DATABASE
        self._take_lock(directory)
        connection = open_database(path, TELEMETRY)
        with closing(connection):
            last_seq: int = connection.execute(
                "SELECT max((SELECT ifnull(max(seq), 0) FROM traces), (SELECT ifnull(max(seq), 0) FROM logs),"
                " (SELECT ifnull(max(seq), 0) FROM gaps))"
            ).fetchone()[0]
        self._recorder = Recorder(self.run_id, last_seq + 1, self._wake)
        self._run_thread(Writer(path, self._recorder))
        self._reader = Reader(path)
        recording.install(self._recorder)
        tracing.read_from(self._recent)
        self._stop_refreshing = metrics.on_scrape(self._refresh_metrics)

    def _take_lock(self, directory: Path) -> None:
        """Makes this the one process that writes the store in `directory`."""
        try:
            make_private_dir(directory)
            path = directory / "telemetry.lock"
            self._lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another process writes the telemetry in {directory}") from error
        except OSError as error:
            raise StoreError(f"{directory} cannot be written: {error.strerror}") from error

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _run_thread(self, writer: Writer) -> None:
        ready: Future[None] = Future()
        # A daemon, so that a program that never closes still ends; `atexit` closes before daemons are stopped.
        # aiosqlite's own thread inherits this from the thread that makes it.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._write(writer, ready)), name="hearthnet-telemetry", daemon=True
        )
        self._thread.start()
        try:
            ready.result(_OPEN_TIMEOUT_S)
        except TimeoutError as error:
            self._stopping = True
            raise StoreError("telemetry.db could not be opened in time") from error

    def close(self) -> None:
        """Commits the rest and marks the run clean, within 2 s; what is recorded later stays in memory. Idempotent."""
        global _opened
        if not self._is_open or os.getpid() != self._pid:  # a forked child has nothing of it to close
            return
        self._is_open = False
        atexit.unregister(self.close)
        self._stop_refreshing()
        tracing.read_from(None)
        if self._reader is not None:
            # First: while a reader is connected, SQLite leaves -wal and -shm behind.
            self._reader.close()
        recording.install(None)  # before the drain: what is recorded from here on does not keep it from ending
        if self._thread is not None:
            self._stopping = True
            self._wake()
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._keep_leftovers()
        self._unlock()
        node_logging.shutdown()
        _opened = None

    def _keep_leftovers(self) -> None:
        """Moves into memory what threads handed over while the writer was ending, and what could not be written.

        For the store that is a loss: counted, and told in the JSON log, the one sink that is still there.
        """
        traces, logs = self._recorder.traces.snapshot(), self._recorder.logs.snapshot()
        for record in traces:
            recording.active.traces.offer(record)
        for entry in logs:
            recording.active.logs.offer(entry)
        if self._thread is not None and (traces or logs):
            metrics.telemetry_dropped_total.labels(reason="closed").inc(len(traces) + len(logs))
            log.warning("records were not committed", extra={"traces": len(traces), "logs": len(logs)})

    # --- the telemetry thread

    def _wake(self) -> None:
        """Has the writer flush now; from any thread, at most one call a flush reaches the loop."""
        loop = self._loop
        if loop is not None and not self._wake_pending:
            self._wake_pending = True
            with suppress(RuntimeError):  # the loop has just ended: `close` has drained what was there
                loop.call_soon_threadsafe(self._work.set)

    async def _write(self, writer: Writer, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await writer.open(self._run_row())
        except Exception as error:  # reported to the thread that waits in `open`  # noqa: BLE001
            ready.set_exception(StoreError(f"telemetry.db could not be opened: {error}"))
            return
        ready.set_result(None)
        try:
            while not self._stopping:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._work.wait(), self._config.flush_interval_s)
                self._work.clear()
                self._wake_pending = False
                await writer.flush()
        finally:
            await writer.close(self.run_id)
            self._loop = None

    def _run_row(self) -> Run:
        return (self.run_id, self._node_id, __version__, os.getpid(), _boot_id(), now_us())

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Waits until all that was recorded before this call is committed; returns whether it is."""
        ends_at = time.monotonic() + timeout_s
        last = max((record.seq for record in self._pending()), default=0)
        while self._thread is not None and self._thread.is_alive():
            if all(record.seq > last for record in self._pending()):
                return True
            if time.monotonic() > ends_at:
                return False
            self._wake()
            time.sleep(_FLUSH_POLL_S)
        return not self._pending()

    def _pending(self) -> list[Any]:
        return [*self._recorder.traces.snapshot(), *self._recorder.logs.snapshot()]

    # --- reading

    def _recent(self, n: int) -> list[TraceRecord]:
        return self.find(n, ANY)

    def find(self, n: int, wanted: TraceFilter) -> list[TraceRecord]:
        """Returns the newest `n` traces that match, newest first, what is not committed yet included."""
        pending = self._recorder.traces.snapshot()  # before the query: see Reader.newest
        if self._reader is not None:
            try:
                return self._reader.newest(pending, n, wanted)
            except StoreError as error:
                log.warning("telemetry.db cannot be read", extra={"reason": error.message})
        return [record for record in reversed(pending) if wanted.accepts(record)][:n]

    def traces(self, n: int, wanted: TraceFilter = ANY) -> list[Trace]:
        """Returns what `find` does, as traces."""
        return [Trace.from_record(record) for record in self.find(n, wanted)]

    def _refresh_metrics(self) -> None:
        metrics.telemetry_queued.labels(kind="trace").set(len(self._recorder.traces))
        metrics.telemetry_queued.labels(kind="log").set(len(self._recorder.logs))
        lost = node_logging.lost_lines()
        metrics.telemetry_dropped_total.labels(reason="log_file").inc(max(0, lost - self._lost_lines_seen))
        self._lost_lines_seen = lost


def _forget() -> None:
    """Lets a forked child open its own: its parent's thread and file are not its."""
    global _opened
    _opened = None


os.register_at_fork(after_in_child=_forget)


def _boot_id() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # not Linux
        return None
