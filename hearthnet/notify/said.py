"""What a program says on standard error, its first bytes: the rest is read and dropped, so it costs no memory.

It is a pipe, which needs no disk: that may be full, and then a message matters most.
"""

from __future__ import annotations

import os
import select
import threading
from types import TracebackType
from typing import Final, Self

__all__ = ["Said"]

_POLL_MS: Final = 50
_READ_BYTES: Final = 65_536  # as many as a pipe holds


class Said:
    """Reads standard error of a program until that has ended, not until the last program that holds it has.

    What it leaves in the background keeps a pipe that takes 64 KiB and refuses more. The reading end is passed on too,
    so that no program is killed for writing to it.

    Args:
        max_bytes: that are kept.

    Attributes:
        standard_error: of the program.
        passed_on: a descriptor that the program inherits besides.
    """

    def __init__(self, max_bytes: int) -> None:
        self.passed_on, self.standard_error = os.pipe()
        self._max_bytes = max_bytes
        self._kept = bytearray()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._read_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        os.close(self.passed_on)
        os.close(self.standard_error)

    def end(self) -> bytes:
        """Returns the first bytes that it said; it has ended."""
        self._has_ended.set()
        self._thread.join()
        os.set_blocking(self.standard_error, False)
        return bytes(self._kept)

    def _read_on(self) -> None:
        poller = select.poll()
        poller.register(self.passed_on, select.POLLIN)
        while not self._has_ended.is_set():
            if poller.poll(_POLL_MS):
                self._read()
        if poller.poll(0):  # what was in the pipe at its end: no more, for another program may go on
            self._read()

    def _read(self) -> None:
        chunk = os.read(self.passed_on, _READ_BYTES)
        self._kept += chunk[: self._max_bytes - len(self._kept)]
