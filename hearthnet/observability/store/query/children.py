"""The processes that an owner has begun, such as a person's query, and that end with it.

A thread waits for each process, and the end of a program for its threads. So closing kills them, by their handles. So
does the end of the main thread, for an owner that is not told of it: exit hooks run only after all threads.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

__all__ = ["Children"]

_LOOK_S: Final = 0.5  # by so much a program may end after its main thread


class Children:
    """The running processes of a page, or another owner. Any thread may call its methods."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def run(self, command: Sequence[str], within_s: float, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs a program to its end, with `given` on its standard input; returns its output and exit code.

        Raises:
            OSError: raised when it cannot be started, or the owner is closed.
            subprocess.TimeoutExpired: raised when it takes longer than `within_s` seconds; it is killed then.
        """
        with self._started(command) as process:
            try:
                out, err = process.communicate(given, within_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    @contextmanager
    def _started(self, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        pipe, is_over = subprocess.PIPE, threading.Event()
        has_main = threading.main_thread().is_alive()  # else the program goes on without it
        with self._lock:  # or it might begin after `close` has looked
            if self._is_closed:
                raise ProcessLookupError("its owner is closed")
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603
            self._running.add(process)
        try:
            if has_main:
                threading.Thread(target=_watch, args=(process, is_over), name="child-watch", daemon=True).start()
            yield process
        finally:
            is_over.set()
            with self._lock:
                self._running.discard(process)

    def close(self) -> None:
        """Kills all, and lets no other begin. Idempotent."""
        with self._lock:
            self._is_closed = True
            for process in self._running:
                process.kill()


def _watch(process: subprocess.Popen[bytes], is_over: threading.Event) -> None:
    """Kills a process when the main thread ends."""
    main = threading.main_thread()
    while not is_over.wait(_LOOK_S):
        if not main.is_alive():
            process.kill()
            return
