"""The thread that exports a store by OTLP: reads rows behind a cursor, sends them, and has the writer move the cursor.

Whatever the backend does, the rows wait in the ring; what the ring evicts meanwhile is counted in the transaction that
evicts it, and the backend gets the number as soon as it responds.

Guarantees:
    - A batch is sent only when the cursor of the one before is committed: a kill sends one batch twice at the most.
    - One process of a store exports at a time: it holds a lock that ends with it, and that it keeps until its last
      cursor is committed.
    - Nothing here is on the path of a caller, and nothing raises into the program.
    - `stop` returns within its limit. A request that the backend leaves open then ends by itself, in a daemon thread,
      which sends nothing more.
Assumes:
    - `stop` is called before the writer ends, after the last record was committed; `release` once it has ended.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.errors import HearthNetError, StoreError
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.otel.export import status
from hearthnet.observability.otel.export.delivery import Delivery
from hearthnet.observability.otel.export.mapping import Gap
from hearthnet.observability.otel.export.route import Route, routes
from hearthnet.observability.process.program import program_name
from hearthnet.observability.records.tracked import tracked
from hearthnet.observability.redaction.rules import scrub
from hearthnet.observability.store.cursors import Cursors, Moves
from hearthnet.observability.store.lock import StoreInUseError, StoreLock
from hearthnet.observability.store.query import unsent
from hearthnet.observability.store.reader import Reader
from hearthnet.observability.store.rows import now_us

if TYPE_CHECKING:
    from hearthnet.observability.otel.export.settings import Settings

__all__ = ["Exporter"]

log = get_logger(__name__)

_ROUND_S: Final = 2.0  # between two rounds: a backend is this far behind at the most
_MANY: Final = TRACE_RING_BUFFER // 4  # rows that may come until the next round: the ring holds the others meanwhile
_ROUNDS_WITHOUT_LOCK: Final = 15  # between two tries to take the lock from a process that has ended
_SAVE_S: Final = 5.0  # for the writer to commit a cursor
_IDLE_S: Final = (
    35.0  # after which a cursor is worth a commit: until then one of records, in eco mode too, takes it along
)
_STATUS_S: Final = 60.0  # between two writes of the status while only counts change
_LAST_ROUND_S: Final = 60.0  # between two rounds that end in an unexpected error
_KINDS: Final = {"traces": "trace", "logs": "log"}


class Exporter:
    """Exports the store at `path` until it is stopped.

    Args:
        path: of the database.
        settings: where to.
        cursors: those of the writer.
        wake: has the writer commit at once.
        run_id: of this run, for what the exporter itself tells the backend.
        round_s: seconds between two rounds; None: two.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        cursors: Cursors,
        wake: Callable[[], None],
        run_id: str,
        round_s: float | None = None,
    ) -> None:
        self._directory = path.parent
        self._settings = settings
        self._cursors = cursors
        self._wake_writer = wake
        self._run_id = run_id
        self._round_s = _ROUND_S if round_s is None else round_s
        self._reader = Reader(path)
        self._lock = StoreLock(self._directory, status.LOCK_FILE)
        self._stop = threading.Event()
        self._ends_at = 0.0
        self._is_abandoned = False
        self._is_last_look = False
        self._stumbles = 0  # rounds in a row that ended in an unexpected error
        self._release_lock = threading.Lock()
        self._is_thread_over = self._is_writer_over = False
        self._lines: list[tuple[Route, Delivery]] = []
        self._oldest_us: dict[str, int | None] = {}  # of those that wait, by signal
        self._sent_at = 0.0
        self._has_sent = False  # something whose cursor is not known to be committed
        self._error: str | None = None
        self._since_us: dict[str, int] = {}  # of each trouble
        self._told: dict[str, Any] = {}
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._run, name="hearthnet-export", daemon=True)
        tracked.add(self)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Sends the committed records, as far as the backend takes it within that time, and ends."""
        self._ends_at = time.monotonic() + within_s
        self._stop.set()
        self._thread.join(within_s)
        self._is_abandoned = self._thread.is_alive()
        if self._is_abandoned:
            self._reader.close()  # the last connection takes the WAL with it

    def release(self) -> None:
        """Lets another process export: the last cursor is committed, if it can be. A request still open comes first."""
        self._is_writer_over = True
        self._release_if_over()

    def _release_if_over(self) -> None:
        with self._release_lock:
            if self._is_thread_over and self._is_writer_over:
                self._lock.release()

    def renew_in_child(self) -> None:
        """Releases a forked child's descriptor of the lock; the parent's keeps the lock."""
        self._lock.release()

    def lag_s(self) -> float:
        """Returns the age of the oldest record that waits, in seconds; 0 if there is none."""
        oldest = [us for us in self._oldest_us.values() if us is not None]
        return max(0.0, (now_us() - min(oldest)) / 1e6) if oldest else 0.0

    # --- in the thread

    def _run(self) -> None:
        for doubt in self._settings.doubts:
            log.warning("a setting of the export is doubtful", extra={"problem": doubt})
        try:
            self._prepare()
            while not self._is_over():
                self._round()
                self._stop.wait(0 if self._stop.is_set() else self._wait_s())
        except HearthNetError as error:
            self._tell_error(error)
        except Exception:  # a thread has no caller to tell; the program must not notice
            self._error = "an unexpected error, see the log"
            log.exception("telemetry is not exported")
        finally:
            self._finish()

    def _prepare(self) -> None:
        made = routes(self._settings, self._reader, self._stop.is_set)
        self._lines = [(route, self._line_of(route)) for route in made]

    def _line_of(self, route: Route) -> Delivery:
        return Delivery(
            route.signal, route.encode, route.sender.send, self._stop.is_set, is_over=lambda: self._is_abandoned
        )

    def _is_over(self) -> bool:
        """Returns whether to end: once stopped, when nothing is left that could be sent before the time is over."""
        if not self._stop.is_set():
            return False
        if self._stumbles:
            return True
        if not self._is_last_look:  # records were committed since the last one
            self._is_last_look = True
            return False
        is_late = self._is_abandoned or time.monotonic() >= self._ends_at
        waiting = [line for route, line in self._lines if self._oldest_us.get(route.signal) is not None]
        return is_late or all(line.trouble is not None for line in waiting)

    def _round(self) -> None:
        """Makes one round; after an unexpected error the next one comes later each time."""
        try:
            self._work()
            self._stumbles = 0
        except Exception:  # as in `_run`
            self._stumbles += 1
            self._error = "an unexpected error, see the log"
            self._oldest_us.clear()
            if self._stumbles == 1:
                log.exception("telemetry cannot be exported now")
        self._tell()

    def _work(self) -> None:
        """Sends one batch of each signal that has any and may, if no other process exports."""
        try:
            if self._has_lock():
                for route, line in self._lines:
                    if not self._is_abandoned:
                        self._send_some(route, line)
                self._error = None
                return
        except StoreError as error:  # the store is not there, which the writer tells
            log.debug("nothing can be exported now", extra={"reason": error.message})
        self._oldest_us.clear()

    def _has_lock(self) -> bool:
        """Takes the lock; returns False if another process has it, or it cannot be taken, which is logged once."""
        try:
            self._lock.acquire()
        except StoreInUseError:
            self._error = None
            return False
        except StoreError as error:
            if self._error != error.message:
                self._tell_error(error)
            return False
        return True

    def _tell_error(self, error: HearthNetError) -> None:
        self._error = error.message
        log.warning("telemetry is not exported", extra={"reason": error.message, "hint": error.hint})

    def _wait_s(self) -> float:
        if self._stumbles:
            return min(self._round_s * 2.0 ** min(self._stumbles, 10), _LAST_ROUND_S)
        if not self._lock.is_held:
            return _ROUNDS_WITHOUT_LOCK * self._round_s
        pause_s = sum(route.pace.end() for route, _ in self._lines)
        now = time.monotonic()
        waits = [
            route.pace.due_s(_MANY) if self._oldest_us.get(route.signal) is None else line.ready_at - now
            for route, line in self._lines
        ]
        return max(min(pause_s, self._round_s), min([self._round_s, *waits]))

    def _send_some(self, route: Route, line: Delivery) -> None:
        """Sends a batch, if the backend may be asked, and the cursor of the one before is committed."""
        pending = self._cursors.take()  # first: what the writer commits in between is known twice, not in neither
        known = unsent.state(self._reader)
        for table in known.cursors.keys() - self._settings.targets.keys() - pending.ended:
            self._cursors.end(table)  # a signal that was switched off
        saved = known.cursors.get(route.signal)
        if saved is None and (saved := self._begun(route.signal)) is None:
            return
        cursor = pending.end_of(route.signal, saved)
        if route.signal == "logs":
            self._tell_lost(line, known, pending)
        route.pace.begin(known.seq)
        records = route.read(cursor, known.seq, line.limit)
        route.pace.take(records[-1].seq - cursor if records else 0)
        self._oldest_us[route.signal] = _ended_us(records[0]) if records else None
        if not records:
            if known.seq > cursor:
                self._cursors.move(route.signal, cursor, known.seq)  # past rows of others
            if self._has_sent and time.monotonic() > self._sent_at + _IDLE_S:
                self._save()
        elif time.monotonic() >= line.ready_at and self._save():
            self._deliver(route, line, cursor, records, known.seq)
        route.let_go(records)

    def _begun(self, signal: str) -> int | None:
        """Begins the export of a signal; returns its cursor: at the oldest row, or where it was when it was last on."""
        self._cursors.begin(signal)
        return unsent.state(self._reader).cursors.get(signal) if self._save() else None

    def _save(self) -> bool:
        """Has the cursor committed; returns False if that cannot be: it would be sent again."""
        if self._has_sent or self._cursors.take().begun:
            within_s = max(0.0, self._ends_at - time.monotonic()) if self._stop.is_set() else _SAVE_S
            self._has_sent = not self._cursors.save(self._wake_writer, min(within_s, _SAVE_S))
        return not self._has_sent

    def _deliver(self, route: Route, line: Delivery, cursor: int, records: list[Any], last: int) -> None:
        self._cursors.fly(route.signal, (record.seq for record in records))
        route.pace.rest()
        done = line.deliver(records)
        if self._is_abandoned:  # the writer has ended
            return
        if done:
            self._cursors.land(route.signal, records[done - 1].seq)
            self._cursors.move(route.signal, cursor, records[done - 1].seq)
            self._has_sent, self._sent_at = True, time.monotonic()
        if done < len(records):
            self._oldest_us[route.signal] = _ended_us(records[done])
        elif records[-1].seq >= last:
            self._oldest_us[route.signal] = None

    def _tell_lost(self, line: Delivery, known: unsent.State, pending: Moves) -> None:
        """Sends a log record for each table whose rows were evicted before they were sent."""
        for table, count in known.lost.items():
            lost = count - pending.told.get(table, 0)
            if lost <= 0 or table not in self._settings.targets or time.monotonic() < line.ready_at:
                continue
            gap = Gap(self._run_id, 0, now_us(), _KINDS[table], "evicted before they were exported", lost)
            if line.deliver([gap]) and not self._is_abandoned:
                self._cursors.tell_lost(table, lost)
                self._has_sent = True

    def _finish(self) -> None:
        for route, _ in self._lines:
            route.sender.close()
        self._reader.close()
        if not self._is_abandoned:
            self._tell(is_last=True)
        self._is_thread_over = True
        self._release_if_over()

    # --- what others see

    def _tell(self, *, is_last: bool = False) -> None:
        """Writes the status: at once when it is another one, else now and then."""
        metrics.telemetry_export_lag_seconds.set(self.lag_s())
        if not self._lock.is_held and self._error is None:  # another process tells
            return
        shape = {
            "pid": os.getpid(),
            "run_id": self._run_id,
            "program": program_name(),
            "endpoints": {signal: target.url.partition("?")[0] for signal, target in self._settings.targets.items()},
            "error": self._error,
            "troubles": self._troubles(),
            "doubts": list(self._settings.doubts),
        }
        if shape == self._told and time.monotonic() < self._told_at + _STATUS_S and not is_last:
            return
        self._told, self._told_at = shape, time.monotonic()
        counts = {route.signal: {"sent": line.counts.sent, "failed": line.counts.failed} for route, line in self._lines}
        try:
            status.write_status(self._directory, {**shape, "counts": counts, "updated_us": now_us()})
        except OSError as error:
            log.debug("the status of the export cannot be written", extra={"error": error})

    def _troubles(self) -> dict[str, dict[str, Any]]:
        """Returns by signal why nothing is delivered, since when, and whether the settings are at fault."""
        found: dict[str, dict[str, Any]] = {}
        for route, line in self._lines:
            if line.trouble is None:
                self._since_us.pop(route.signal, None)
            else:
                since_us = self._since_us.setdefault(route.signal, now_us())
                words = scrub(line.trouble.words)
                found[route.signal] = {"words": words, "since_us": since_us, "is_misset": line.trouble.kind == "misset"}
        return found


def _ended_us(record: Any) -> int:
    return int(record.started_us + record.duration_ms * 1_000) if hasattr(record, "started_us") else int(record.ts_us)
