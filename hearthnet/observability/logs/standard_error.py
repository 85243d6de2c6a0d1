"""The program's stderr, written to without ever making the program wait for long, and without raising.

A pipe that nothing reads, or a terminal that is stopped, blocks its writer. So a write first asks whether there is
space, and waits for it `WAIT_S` at most, once: what comes until there is space again is dropped and counted. No flag of
the descriptor is changed, for it is shared with the program, its parent and its children.

Each write asks for `sys.stderr` anew, so `contextlib.redirect_stderr`, notebooks and tests have the text too.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from hearthnet.display import has_colour
from hearthnet.observability.records.tracked import tracked

__all__ = ["WAIT_S", "StandardError"]

WAIT_S: Final = 0.05
_CHUNK: Final = 4_096  # bytes that a pipe which is writable takes at once
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class StandardError:
    """Writes to the present `sys.stderr`. Thread-safe, and safe in signal handlers and forked children.

    Attributes:
        stream: the last one that was written to or looked up.
        is_for_people: whether it is a terminal or a notebook.
        has_colour: whether it shows colours.
        missed: lines that did not fit, in all.
    """

    def __init__(self) -> None:
        self.missed = 0
        self._untold = 0  # of these, since the last note
        self._is_stuck = self._is_torn = False
        self._lock = threading.RLock()
        self.look_up()
        tracked.add(self)

    def renew_in_child(self) -> None:
        """Gives a forked child a lock of its own: a thread of the parent may hold the other for ever."""
        self._lock = threading.RLock()

    def look_up(self) -> None:
        """Learns about the present `sys.stderr`."""
        self.stream: Any = sys.stderr
        try:
            is_notebook = type(self.stream).__module__.startswith("ipykernel.")
            self.is_for_people = self.stream.isatty() or is_notebook
            self.has_colour = has_colour(self.stream, is_capable=is_notebook)
        except Exception:  # closed, missing, or an object of the program's own  # noqa: BLE001
            self.is_for_people = self.has_colour = False

    def write(self, text: str, note: Callable[[int], str]) -> None:
        """Writes text that ends with a line end.

        Args:
            text: what to write; characters that the stream's encoding lacks are escaped.
            note: returns a line about so many lines that were dropped; it comes before the next one that is written.
        """
        if not self._lock.acquire(timeout=WAIT_S):  # the one who holds it waits for space
            self._drop()
            return
        try:
            self._write(text, note)
        except Exception:  # closed, broken, or an object of the program's own  # noqa: BLE001
            self._is_torn = False
        finally:
            self._lock.release()

    def _drop(self) -> None:
        self.missed += 1
        self._untold += 1

    def _write(self, text: str, note: Callable[[int], str]) -> None:
        stream = sys.stderr
        if stream is None:
            return
        descriptor = _descriptor_of(stream)
        if descriptor is None:
            stream.write(text)
            stream.flush()
            return
        if untold := self._untold:
            text = note(untold) + text
        if self._is_torn:
            text = f"\n{text}"
        raw = text.encode(stream.encoding or "utf-8", "backslashreplace")
        if self._put(descriptor, raw):
            self._untold -= untold

    def _put(self, descriptor: int, raw: bytes) -> bool:
        """Writes bytes while there is space for them; returns whether all of them are written."""
        asked = select.poll()
        asked.register(descriptor, select.POLLOUT)
        rest = memoryview(raw)
        while rest:
            found = asked.poll(0 if self._is_stuck else 1_000 * WAIT_S)
            if found and found[0][1] & _GONE:  # there is no reader any more, or no such descriptor
                return False
            self._is_stuck = not found
            if not found:
                self._drop()
                self._is_torn = self._is_torn or len(rest) < len(raw)
                return False
            rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
        self._is_torn = False
        return True


def _descriptor_of(stream: Any) -> int | None:
    """Returns the descriptor behind a stream; None if text waits in it that would come later, or there is none."""
    if not (getattr(stream, "line_buffering", False) or getattr(stream, "write_through", False)):
        return None
    try:
        return int(stream.fileno())
    except (OSError, ValueError):  # a text in memory, say
        return None
