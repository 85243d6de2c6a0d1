"""The state of this process's instruments that may change while it runs, in one object.

`runtime` is that object, and the only one of its class: modules read its attributes each time, never keep them. The one
fork hook, at the end of this file, renews in a forked child what it cannot share with its parent; `Runtime.reset` puts
everything back as it is after import, for tests.

    runtime.recorder.record_log(values)         a record, wherever records go at present
    runtime.at_fork(forget)                     `forget()` is called in a forked child, and by `reset`
    tracked.add(self)                           `self.renew_in_child()` is called in a forked child
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from hearthnet.observability.records.context import current
from hearthnet.observability.records.ids import id_source, new_trace_id
from hearthnet.observability.records.recorder import LazyRecorder, Recorder
from hearthnet.observability.records.tracked import tracked
from hearthnet.observability.redaction import rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Final

    from hearthnet.observability.records.stored import TraceRecord

__all__ = ["SLOW_MS", "Runtime", "runtime"]

SLOW_MS: Final = 5_000.0
_NOTSET: Final = 0  # the standard library's number


class Runtime:
    """What the instruments of this process use at present.

    Attributes:
        recorder: where records go. Without a store it is one in memory, whose buffers are the rings.
        recent: returns the newest finished traces from the store; None: only those in memory are known.
        telemetry: the open `Telemetry`, or None.
        store_dir: the folder of the store that this process has open or had open last; None: it never had one.
        slow_ms: a trace that lasts this long is notable.
        handler: our `JsonHandler`, once logging is configured.
        journal: of systemd, to which records go besides; None: none.
        level: the lowest level that our own loggers pass on.
        keep_debug: whether traces keep debug records until they end.
        registry: where metrics are registered; None: they are off.
        redaction: names and values that are secret.
        hook_failures: how many times a hook for uncaught errors could not record what it was called with.
        lock: over counts in memory. Held for microseconds. Re-entrant: a signal handler or a finalizer may log while
            its own thread holds it.
        config_lock: over configuring logging and metrics.
        open_lock: over `logging.configure`, which opens a store. One of its own, because the telemetry thread declares
            metrics, under `config_lock`, while the opening waits for it.
    """

    __slots__ = (
        "_at_fork", "_at_reset", "_fork_lock", "_forks", "config_lock", "handler", "hook_failures",
        "journal", "keep_debug", "level", "lock", "open_lock", "recent", "recorder", "redaction", "registry", "slow_ms",
        "store_dir", "telemetry",
    )  # fmt: skip

    def __init__(self) -> None:
        self._at_fork: list[Callable[[], None]] = []
        self._at_reset: list[Callable[[], None]] = []
        self.redaction: Final = rules.active
        # Of higher floors, which this one does not know by type.
        self.handler: Any = None
        self.journal: Any = None
        self.telemetry: Any = None
        self.store_dir: Path | None = None
        self.registry: Any = None
        self.level = _NOTSET
        self.keep_debug = False
        self.slow_ms = SLOW_MS
        self.hook_failures = 0
        self.recent: Callable[[int], list[TraceRecord]] | None = None
        self.install(None)
        self._renew_locks()

    def _renew_locks(self) -> None:
        self.lock = threading.RLock()
        self.config_lock = threading.RLock()
        self._fork_lock = threading.RLock()
        self._forks = 0  # under way: a signal handler may fork in the middle of one
        self.open_lock = threading.RLock()
        self.redaction.lock = threading.RLock()

    def at_fork(self, forget: Callable[[], None]) -> None:
        """Calls `forget` in each forked child and on `reset`: for counts and caches of the parent's doings."""
        self._at_fork.append(forget)

    def at_reset(self, undo: Callable[[], None]) -> None:
        """Calls `undo` on `reset`: for what a forked child keeps."""
        self._at_reset.append(undo)

    def install(self, recorder: Recorder | LazyRecorder | None) -> None:
        """Makes `recorder` the one that the instruments write to; None: a fresh one in memory."""
        self.recorder: Recorder = Recorder(new_trace_id()) if recorder is None else recorder  # type: ignore[assignment]

    def before_fork(self) -> None:
        """Closes the connections of this process: a child's idea of SQLite's locks would be a copy of its parent's."""
        self._fork_lock.acquire()
        self._forks += 1
        if self._forks == 1 and self.telemetry is not None:
            self.telemetry.pause()

    def after_fork(self) -> None:
        """Opens them again in the parent."""
        if not self._forks:  # a child in the middle of the fork that a signal handler interrupted to make it
            return
        try:
            if self._forks == 1 and self.telemetry is not None:
                self.telemetry.resume()
        finally:
            self._forks -= 1
            self._fork_lock.release()

    def renew_in_child(self) -> None:
        """Gives a forked child locks, ids and a recorder of its own.

        A thread of the parent may have held a lock at the fork and is not there to release it. The child has no
        telemetry thread either: it must not fill a buffer that is never emptied, nor use its parent's numbers, box or
        connection.
        """
        self._renew_locks()
        id_source.reseed()
        for item in list(tracked):
            item.renew_in_child()
        telemetry, recorder = self.telemetry, self.recorder
        self._forget()
        if telemetry is not None:
            telemetry.follow_in_child()
        elif isinstance(recorder, LazyRecorder):  # a child that has recorded nothing yet: what a daemon does to detach
            self.install(recorder.again())

    def _forget(self) -> None:
        self.install(None)
        self.telemetry = self.recent = None
        for forget in self._at_fork:
            forget()

    def reset(self) -> None:
        """Closes telemetry and puts everything back as it is after import. For tests."""
        if self.telemetry is not None:
            self.telemetry.close()
        for undo in self._at_reset:
            undo()
        self._forget()
        rules.configure()
        rules.forget_secrets()
        self.slow_ms = SLOW_MS
        self.store_dir = None
        self.hook_failures = 0
        current.set(None)


runtime: Final = Runtime()
os.register_at_fork(
    before=runtime.before_fork, after_in_parent=runtime.after_fork, after_in_child=runtime.renew_in_child
)
