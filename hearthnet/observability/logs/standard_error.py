"""The program's stderr, written to without ever making the program wait for long, and without raising.

A pipe that nothing reads, or a terminal that is stopped, blocks its writer. So a write opens the pipe or terminal anew,
for itself alone and without blocking: the flags of the descriptor are shared with the program, its parent and its
children, so none is changed, and nothing is kept open. Where it cannot be opened (it is another user's), a write asks
first whether there is space. For space it waits `WAIT_S` at most, once: what comes until there is some is dropped and
counted.

Each write asks for `sys.stderr` anew, so `contextlib.redirect_stderr`, notebooks and tests have the text too. An object
of the program's own is given text if the process's stderr has space, for that is where most of them write; if that is
a terminal that stops in the midst of it, the program waits, as it does for its own text.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from hearthnet.display import has_colour
from hearthnet.observability.records.tracked import tracked

__all__ = ["WAIT_S", "StandardError"]

WAIT_S: Final = 0.05
_CHUNK: Final = 4_096  # bytes that a pipe which is writable takes at once
_CHUNK_CHARS: Final = _CHUNK // 4
_CHUNK_OF_A_TERMINAL: Final = 1  # all that it is sure to take: it may be stopped in the midst of more
_UNBLOCKED: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
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
        except Exception:  # closed, broken, full, or an object of the program's own  # noqa: BLE001
            self._is_torn = False
            self._drop()
        finally:
            self._lock.release()

    def close(self, note: Callable[[int], str]) -> None:
        """Writes the line about those that were dropped, if there is space now."""
        if self._untold:
            self.write("", note)

    def _drop(self) -> None:
        self.missed += 1
        self._untold += 1

    def _write(self, text: str, note: Callable[[int], str]) -> None:
        stream = sys.stderr
        if stream is None:
            return
        descriptor = _descriptor_of(stream)
        if descriptor is None:
            self._put_into(stream, text)
            return
        if untold := self._untold:
            text = note(untold) + text
        if self._is_torn:
            text = f"\n{text}"
        raw = text.encode(stream.encoding or "utf-8", "backslashreplace")
        if self._put(descriptor, raw):
            self._untold -= untold

    def _put_into(self, stream: Any, text: str) -> None:
        """Writes to an object that has no descriptor of its own, and may write to the process's stderr."""
        for start in range(0, len(text), _CHUNK_CHARS):
            if not isinstance(stream, io.StringIO) and self._is_full():
                self._drop()
                return
            stream.write(text[start : start + _CHUNK_CHARS])
            stream.flush()

    def _is_full(self) -> bool:
        """Returns whether the process's own stderr has no space."""
        try:
            descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]  # None is an error, too
        except Exception:  # there is none, or it is replaced: the object writes to something else  # noqa: BLE001
            return False
        self._is_stuck = _has_space(descriptor, 0 if self._is_stuck else WAIT_S) is False
        return self._is_stuck

    def _put(self, descriptor: int, raw: bytes) -> bool:
        """Writes bytes while there is space for them; returns whether all of them are written."""
        opened, chunk = _open_unblocked(descriptor)
        try:
            return self._put_all(descriptor if opened is None else opened, raw, chunk)
        finally:
            if opened is not None:
                os.close(opened)

    def _put_all(self, descriptor: int, raw: bytes, chunk: int) -> bool:
        rest = memoryview(raw)
        while rest:
            has_space = _has_space(descriptor, 0 if self._is_stuck else WAIT_S)
            if has_space is None:  # there is no reader any more, or no such descriptor
                return False
            written = _write(descriptor, rest[:chunk]) if has_space else 0
            self._is_stuck = not written
            if not written:
                self._drop()
                self._is_torn = self._is_torn or len(rest) < len(raw)
                return False
            rest = rest[written:]
        self._is_torn = False
        return True


def _write(descriptor: int, part: memoryview) -> int:
    """Returns how many bytes were taken."""
    try:
        return os.write(descriptor, part)
    except BlockingIOError:
        return 0


def _has_space(descriptor: int, wait_s: float) -> bool | None:
    """Returns whether there is space within a time; None if there is no reader, or no such descriptor."""
    if not hasattr(select, "poll"):  # a library that replaces blocking calls takes it away
        return bool(select.select([], [descriptor], [], wait_s)[1])
    asked = select.poll()
    asked.register(descriptor, select.POLLOUT)
    found = asked.poll(1_000 * wait_s)
    if found and found[0][1] & _GONE:
        return None
    return bool(found)


def _open_unblocked(descriptor: int) -> tuple[int | None, int]:
    """Returns a descriptor of our own for a pipe or terminal, which never blocks, if there can be one.

    Returns:
        It, and how many bytes to write at once.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return None, _CHUNK
    with suppress(OSError):
        return os.open(f"/proc/self/fd/{descriptor}", _UNBLOCKED), _CHUNK
    return None, _CHUNK if stat.S_ISFIFO(mode) else _CHUNK_OF_A_TERMINAL


def _descriptor_of(stream: Any) -> int | None:
    """Returns the descriptor behind a stream; None for a file in whose buffer text waits, or if there is none."""
    is_unbuffered = getattr(stream, "line_buffering", False) or getattr(stream, "write_through", False)
    if not is_unbuffered and type(stream) is not io.TextIOWrapper:
        return None
    try:
        found = int(stream.fileno())
        # A file takes all at once: its order is kept. A pipe or a terminal may not, so what waits for it stays behind.
        return found if is_unbuffered or not stat.S_ISREG(os.fstat(found).st_mode) else None
    except (OSError, ValueError):  # a text in memory, say
        return None
