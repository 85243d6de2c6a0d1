"""The public entry point: opens the store, runs its writer in a thread of its own, and closes it.

    with telemetry.open() as t:                     with telemetry.open("folder"):
        …                                               …
    async with telemetry.open(settings) as t:       telemetry.keep_open()
        …

`open` also configures logging, with the console, and metrics; without settings it takes the user's config.toml and the
standard folders. `keep_open` is the same until the process ends.

The thread has an event loop of its own, so records are committed whatever the program's loop is doing. If the store
cannot be opened, the program runs on, telemetry is served from memory, and the thread keeps trying. Any number of
processes may open the same store. A child that is forked, or started by multiprocessing in any other way, opens it when
it records for the first time, as a run of its own with its parent's settings.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sqlite3
import sys
import warnings
from collections.abc import Callable, Collection
from functools import partial
from os import PathLike
from pathlib import Path
from time import monotonic, monotonic_ns
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Self

from hearthnet import __version__
from hearthnet.constants import DATABASE
from hearthnet.database import has_connections
from hearthnet.errors import HearthNetError, StoreError
from hearthnet.forensics import box as layout
from hearthnet.observability import logging as node_logging
from hearthnet.observability import metrics
from hearthnet.observability.logs.console import Mode, check_mode
from hearthnet.observability.process import uncaught
from hearthnet.observability.process.beside_loop import beside_loop
from hearthnet.observability.process.program import program_name
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.records.recorder import LazyRecorder, Recorder
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.records.tracked import tracked
from hearthnet.observability.redaction import rules as redaction
from hearthnet.observability.runtime import runtime
from hearthnet.observability.settings import complete, unread
from hearthnet.observability.store.budget import Budget, disk_bytes
from hearthnet.observability.store.lock import StoreLock
from hearthnet.observability.store.metrics_bridge import MetricsBridge
from hearthnet.observability.store.pacer import Pace
from hearthnet.observability.store.query.stats import capability_stats
from hearthnet.observability.store.reader import ANY, Reader, TraceFilter
from hearthnet.observability.store.recent import warn_unreadable
from hearthnet.observability.store.recovery.box_records import record_interrupted
from hearthnet.observability.store.recovery.recover import Recovery
from hearthnet.observability.store.rows import Run, now_us, role_of
from hearthnet.observability.store.thread import StoreThread
from hearthnet.observability.tracing import Trace

if TYPE_CHECKING:
    from hearthnet.config import ObservabilityConfig
    from hearthnet.observability.otel.export.exporter import Exporter

__all__ = ["DATABASE", "Telemetry", "keep_open", "open", "opened"]

log = node_logging.get_logger(__name__)

_EXPORT_TIMEOUT_S: Final = 1.0  # in which a clean stop sends what was recorded last
_CLOSE_TIMEOUT_S: Final = 2.0  # in which a clean stop drains, checkpoints and closes
_OPEN_TIMEOUT_S: Final = 30.0  # for a slow card, a large store, a full box; the port opens after it
_FORK_TIMEOUT_S: Final = 2.0  # for the transaction under way
_HANDED_ON: Final = "hearthnet_telemetry"


def open(  # noqa: A001  # the spec's name
    config: ObservabilityConfig | str | PathLike[str] | None = None,
    *,
    console: Mode = "auto",
    node_id: str | None = None,
) -> Telemetry:
    """Returns telemetry for these settings; `with` or `async with` starts it. One that is dropped unstarted warns.

    Args:
        config: None: the settings of the user's config.toml, or the defaults. A folder: the same, in that folder.
            Folders that settings do not name are the standard ones.
        console: shows records on stderr: `auto`, `text`, `json` or `off`; see `logs.console`.
        node_id: of the node that this program is.

    Raises:
        ConfigError: raised with the name of a setting that cannot be.
        ValueError: raised when there is no such mode of the console.
    """
    return Telemetry(complete(config), node_id, console=console, is_to_be_entered=True)


def keep_open(config: ObservabilityConfig | str | PathLike[str] | None = None, *, console: Mode = "auto") -> None:
    """Opens telemetry until the process ends, or `open` takes over; the same settings again change nothing.

    Arguments are those of `open`.

    Raises:
        ConfigError: raised as `open` does.
        ValueError: raised as `open` does.
        RuntimeError: raised while telemetry is open with other settings, by `open`: who opened it closes it.
    """
    wanted = complete(config)
    with runtime.open_lock:
        found = opened()
        if found is not None and found.config == wanted and found.console == check_mode(console):
            node_logging.reattach()
        elif found is not None and not found.is_kept_open:
            raise RuntimeError("telemetry is open with other settings: configure logging before, or not at all")
        else:
            Telemetry(wanted, is_kept_open=True, console=console).start()


def opened() -> Telemetry | None:
    """Returns the telemetry that this process has open."""
    found: Telemetry | None = runtime.telemetry
    return found


class Telemetry:
    """Records everything until it is closed.

    Attributes:
        run_id: of this run.
        config: its settings, with all folders.
        is_kept_open: whether `keep_open` opened it: the next opening closes it.
        console: the mode of the console.
    """

    _is_to_be_entered = False

    def __init__(
        self,
        config: ObservabilityConfig,
        node_id: str | None = None,
        *,
        is_kept_open: bool = False,
        console: Mode = "auto",
        is_to_be_entered: bool = False,
    ) -> None:
        self._config = self.config = config
        self.console: Mode = check_mode(console)
        self.is_kept_open = is_kept_open
        self._node_id = node_id
        self.run_id = new_trace_id()
        self._error: str | None = None
        self._budget = Budget(config.max_disk_mb)
        self._reader: Reader | None = None
        self._recorder = Recorder(self.run_id)
        self._thread: StoreThread | None = None
        self._exporter: Exporter | None = None
        self._lock: StoreLock | None = None
        self._stop_refreshing: Callable[[], None] = lambda: None
        self._metrics = MetricsBridge()
        self._path: Path | None = None
        self._is_open = self._is_safe_to_fork = False
        self._pid: int | None = None
        self._is_to_be_entered = is_to_be_entered  # last: what failed before is no one's omission

    @property
    def error(self) -> str | None:
        """Why nothing is written to telemetry.db at present, or None."""
        thread = self._thread
        if self._error is not None or thread is None:
            return self._error
        return thread.error or (thread.writer.failing if thread.writer is not None else None)

    @property
    def error_text(self) -> str | None:
        """The same in SQLite's words, where there are any."""
        return None if self._thread is None else self._thread.error_text

    def suspect(self) -> None:
        """Has the writer check the store, because damage was seen, and open it anew if so. Returns at once."""
        if self._thread is not None:
            self._thread.suspect()

    @property
    def data_dir(self) -> Path | None:
        """The store's folder."""
        return self._config.data_dir

    @property
    def recovered(self) -> Recovery:
        """The records that the last opening recovered from boxes of runs that did not stop cleanly."""
        return Recovery() if self._thread is None else self._thread.recovered

    # --- opening and closing

    def __del__(self) -> None:
        if self._is_to_be_entered:
            said = "telemetry.open() was not entered, so nothing is recorded: with telemetry.open(): …"
            warnings.warn(said, RuntimeWarning, stacklevel=2)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _: object = None, error: BaseException | None = None, __: object = None) -> None:
        uncaught.record(error)
        self.close()

    async def __aenter__(self) -> Self:
        await beside_loop(self.start)
        return self

    async def __aexit__(self, _: object = None, error: BaseException | None = None, __: object = None) -> None:
        uncaught.record(error)
        await beside_loop(self.close)

    def start(self) -> None:
        """Configures logging and metrics and opens the store; if that fails, telemetry is kept in memory.

        The records in boxes of earlier runs are in the database when this returns.

        Raises:
            RuntimeError: raised when this process has telemetry open already: the instruments have one destination.
        """
        self._is_to_be_entered = False
        earlier = opened()
        if earlier is not None and earlier.is_kept_open and earlier is not self:
            earlier.close()
        if (found := opened()) is not None:
            raise RuntimeError(
                f"telemetry is open already, in {found.data_dir}: open it once, around the whole program. "
                "`telemetry.keep_open` with these settings leaves it as it is"
            )
        if self._pid is not None:
            raise RuntimeError("make a new one to open again")
        self._pid = os.getpid()
        runtime.telemetry = self
        tracked.add(self)
        try:
            self._configure()
        except BaseException:  # a setting that cannot be: the next opening must not be told that this one is open
            runtime.telemetry = None
            raise
        runtime.install(self._recorder)
        self._start_export()
        self._stop_refreshing = metrics.on_scrape(self._refresh_metrics)
        _hand_on(_packed(self._config, self.console))

    def _configure(self) -> None:
        self._configure_instruments()
        while unread:
            node_logging.warn_visibly(log, "the default settings are used", unread.pop())
        self._is_open = True
        atexit.register(self.close)
        try:
            self._start_store()
        except (HearthNetError, sqlite3.Error) as error:
            where = "memory" if self._recorder.box is None else "the black box"
            node_logging.warn_visibly(log, f"telemetry is kept in {where} only", str(error))

    def _configure_instruments(self) -> None:
        redaction.configure(self._config.redact_keys, self._config.redact_patterns)  # before anything is recorded
        node_logging.install_sinks(self._config, console=self.console)
        if (file := node_logging.log_file()) is not None:
            file.limit(self._budget.rest)
        metrics.configure(self._config)
        runtime.slow_ms = self._config.slow_ms
        runtime.store_dir = self._config.data_dir

    def _start_store(self) -> None:
        thread = self._make_thread()
        runtime.recent = self._recent
        thread.start(_OPEN_TIMEOUT_S)

    def _make_thread(self) -> StoreThread:
        directory = self._config.data_dir
        if directory is None:
            self._error = "this user has no home folder, and no folder is given"
            raise StoreError(self._error)
        self._path = path = directory / DATABASE
        self._lock = lock = StoreLock(directory)
        run: Run = (
            self.run_id, self._node_id, __version__, os.getpid(), layout.this_boot() or None, now_us(),
            program_name(), role_of(self._node_id),
        )  # fmt: skip
        self._recorder = Recorder(self.run_id, lambda *_: None)  # until the thread is made
        pace = Pace(self._config.flush_interval_s, self._config.eco, self._config.keep_free_mb)
        self._thread = StoreThread(path, self._recorder, run, self._budget, pace, lock)
        self._reader = Reader(path, self.suspect)
        return self._thread

    def _start_export(self) -> None:
        """Starts the export by OTLP, where an endpoint is set. Never raises: what keeps it from that is logged."""
        try:
            self._try_to_export()
        except HearthNetError as error:
            log.warning("telemetry is not exported", extra={"reason": error.message, "hint": error.hint})
        except Exception:  # no more threads, say: never the fault of the program
            log.exception("telemetry is not exported")

    def _try_to_export(self) -> None:
        endpoint, thread = self._config.otlp_endpoint, self._thread
        if thread is None or not (endpoint or any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ)):
            return
        from hearthnet.observability.otel.export.exporter import Exporter  # late: most programs export nothing
        from hearthnet.observability.otel.export.settings import read

        settings = read(endpoint, os.environ)
        if settings is not None:
            redaction.register_secrets(settings.secrets())
            wake = partial(thread.pacer.wake, at_once=True, skip_gap=True, one_commit=True)
            exporter = Exporter(thread.path, settings, thread.cursors, wake, self.run_id)
            exporter.start()
            self._exporter = exporter

    def _stop_export(self) -> None:
        """Sends what was recorded last, while the writer can still commit how far that came."""
        if self._exporter is not None and self._thread is not None:
            ends_at = monotonic() + _EXPORT_TIMEOUT_S
            self._thread.flush(_EXPORT_TIMEOUT_S / 2)
            self._exporter.stop(max(0.0, ends_at - monotonic()))

    def close(self) -> None:
        """Commits the rest and marks the run clean, within 2 s; later records stay in memory. Idempotent.

        The exception that ends the program is recorded before. Traces that have not ended are recorded as
        `interrupted`.
        """
        if not self._is_open or os.getpid() != self._pid:  # a forked child has nothing to close
            return
        uncaught.record(uncaught.of_program())
        self._is_open = False
        atexit.unregister(self.close)
        self._stop_refreshing()
        try:
            self._close_all()
        except Exception as error:  # out of memory, say: never the fault of the program  # noqa: BLE001
            node_logging.warn_visibly(log, "telemetry could not be closed", str(error) or type(error).__name__)
        finally:
            node_logging.shutdown()
            runtime.telemetry = None

    def _close_all(self) -> None:
        ends_at = monotonic() + _CLOSE_TIMEOUT_S
        try:
            self._stop_recording()
            self._stop_export()
        finally:  # whatever failed: what was recorded is committed
            if self._thread is not None:
                self._thread.stop(max(_CLOSE_TIMEOUT_S - _EXPORT_TIMEOUT_S, ends_at - monotonic()))
            if self._exporter is not None:
                self._exporter.release()
            is_in_box = self._close_box()
            if not (is_in_box and self._thread is not None and self._thread.recover_own()):
                self._keep_uncommitted(is_in_box=is_in_box)

    def _stop_recording(self) -> None:
        _hand_on(None)
        runtime.recent = None
        if self._reader is not None:
            # First, because SQLite leaves -wal and -shm behind while a reader is connected.
            self._reader.close()
        node_logging.log_dropped(all_of_them=True)  # while the store can still record them
        runtime.install(None)  # before the drain, so that new records cannot prolong it
        record_interrupted(self._recorder)

    def _close_box(self) -> bool:
        """Deletes the box if its records are committed; else leaves it to the next process that opens the store.

        Returns:
            Whether the records not committed are in a box.
        """
        box, thread = self._recorder.box, self._thread
        if thread is None or thread.is_clean:
            if box is not None:
                box.note_ended(now_us())  # first: where it cannot be removed it must not look like that of a killed run
                try:
                    box.close(remove=True)
                except OSError as error:  # the disk is read-only now
                    log.warning("a black box cannot be removed", extra={"error": error, "path": str(box.path)})
            return False
        try:
            if box is not None or self._recorder.has_pending() or thread.was_open:
                thread.keep_pending()
        except OSError as error:
            log.warning("there is no black box", extra={"error": error})
            return False
        return True

    # --- forks

    def pause(self) -> None:
        """Closes this process's connections: it is about to fork."""
        self._is_safe_to_fork = False  # a signal handler may fork in the middle of this
        if not self._is_open or self._path is None:
            return
        is_paused = self._thread is None or self._thread.pause(_FORK_TIMEOUT_S)
        for reader in self._readers():
            reader.pause()
        self._is_safe_to_fork = is_paused and not has_connections(self._path)

    def _readers(self) -> list[Reader]:
        """Returns the readers of this store, also those of others, such as the page of a program."""
        return [one for one in tracked if isinstance(one, Reader) and one.path == self._path]

    def resume(self) -> None:
        """Connects again after a fork."""
        self._is_safe_to_fork = False  # as in `pause`
        if self._is_open and self._path is not None:
            for reader in self._readers():
                reader.resume()
            if self._thread is not None:
                self._thread.resume()

    def renew_in_child(self) -> None:
        """Releases the child's descriptor of the store's lock; the parent's keeps the lock."""
        if self._lock is not None:
            self._lock.release()

    def follow_in_child(self) -> None:
        """Makes the first record or trace of a forked child open telemetry of its own, with the same settings."""
        if self._is_open and self._path is not None:
            runtime.install(LazyRecorder(self._open_in_child))

    def follow_parent(self) -> None:
        """Does the same in a process that multiprocessing has started with a new interpreter."""
        if opened() is None:
            self._configure_instruments()
            self._is_safe_to_fork = True
            runtime.install(LazyRecorder(self._open_in_child))

    def _open_in_child(self) -> Recorder:
        child = Telemetry(
            self._config, is_kept_open=True, console=self.console
        )  # the child may open it itself: that takes over
        try:
            child._start_in_child(may_connect=self._is_safe_to_fork)
        except Exception as error:  # no more threads, say: never the fault of the caller, who records  # noqa: BLE001
            log.warning("telemetry is kept in memory only", extra={"reason": error})
            return Recorder(child.run_id)
        if isinstance(runtime.recorder, LazyRecorder):
            runtime.install(child._recorder)
        return child._recorder

    def _start_in_child(self, *, may_connect: bool) -> None:
        """Starts with a box, at once, and the thread, without waiting: the caller is about to record.

        Args:
            may_connect: whether no connection was open at the fork. If one was, the child records into its box alone,
                and the next process that opens the store after its end recovers that.
        """
        self._pid = os.getpid()
        thread = self._make_thread()
        self._is_open = True
        runtime.telemetry = self
        tracked.add(self)
        runtime.recent = self._recent
        atexit.register(self.close)
        _close_with_worker(self.close)
        thread.ensure_box()
        self._stop_refreshing = metrics.on_scrape(self._refresh_metrics)
        try:
            if not may_connect:
                raise StoreError("a connection to telemetry.db was open when this process was forked")
            thread.start(None)
        except StoreError as error:
            self._error = error.message
            log.warning("telemetry is kept in the black box only", extra={"reason": self._error})
        else:
            self._start_export()

    def _keep_uncommitted(self, *, is_in_box: bool) -> None:
        """Keeps in memory the records that arrived while the writer was ending, and those it could not commit.

        A box has them too, for the next process that opens the store. Without a box they are dropped from the store:
        counted, and logged in the JSON log, the one sink that is still open.
        """
        traces, logs = self._recorder.pending_fields(), self._recorder.logs.snapshot()
        for record in traces:
            runtime.recorder.traces.offer(record)
        for entry in logs:
            runtime.recorder.logs.offer(entry)
        if self._thread is None or not (traces or logs):
            return
        if not is_in_box:
            metrics.telemetry_dropped_total.labels(reason="closed").inc(len(traces) + len(logs))
        fields = {"traces": len(traces), "logs": len(logs), "in_black_box": is_in_box}
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
                warn_unreadable(self.data_dir or Path(), error.message)
        return [record for record in reversed(pending) if wanted.accepts(record)][:n]

    def traces(self, n: int, wanted: TraceFilter = ANY) -> list[Trace]:
        """Returns the result of `find` as `Trace` objects."""
        return [Trace.from_record(record) for record in self.find(n, wanted)]

    def programs(self, run_ids: Collection[str]) -> dict[str, str]:
        """Returns the program of each of these runs, where it is known; this run's own always is."""
        own = {self.run_id: program_name()}
        try:
            return own if self._reader is None else {**self._reader.programs(run_ids), **own}
        except StoreError as error:
            log.warning("telemetry.db cannot be read", extra={"reason": error.message})
            return own

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


def _close_with_worker(close: Callable[[], None]) -> None:
    """Calls `close` when a worker of multiprocessing ends: it leaves by `os._exit`, which runs no `atexit`."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, close, exitpriority=-100)  # after those of the program


class _HandedOn:
    """Settings on their way to the processes that multiprocessing starts: to unpickle them is to follow the parent.

    A forked child has its parent's memory; this is for one that begins with a new interpreter.
    """

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def __reduce__(self) -> tuple[Callable[..., _HandedOn], tuple[Any, ...]]:
        return _follow, (self._packed, tuple(redaction.active.secrets))


def _follow(packed: bytes, secrets: tuple[str | bytes, ...]) -> _HandedOn:
    """Makes the first record or trace of this process open telemetry. Never raises: the process has other work."""
    try:
        redaction.register_secrets(secrets)
        settings: Any = SimpleNamespace(**pickle.loads(packed))  # noqa: S301  # from the parent
        Telemetry(settings, console=settings.console).follow_parent()
    except Exception as error:  # whatever its settings are, the program runs on  # noqa: BLE001
        log.warning("telemetry is kept in memory only", extra={"reason": error})
    return _HandedOn(packed)


def _packed(config: Any, console: Mode) -> bytes | None:
    """Returns settings for another process; None if they are not plain values."""
    try:
        return pickle.dumps({**vars(config), "console": console})
    except Exception:  # pickle raises whatever the values raise  # noqa: BLE001
        log.debug("settings cannot be handed on to child processes")
        return None


def _hand_on(packed: bytes | None) -> None:
    """Gives the settings to every process that multiprocessing starts from now on; None: to no more of them."""
    from multiprocessing import process  # late: a few milliseconds

    # The one place that all descendants inherit, whatever the start method: the environment of a server of forks is
    # that of its own start.
    config = process.current_process()._config  # type: ignore[attr-defined]  # noqa: SLF001
    config.pop(_HANDED_ON, None)
    if packed is not None:
        config[_HANDED_ON] = _HandedOn(packed)
