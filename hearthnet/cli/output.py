"""Streams whose failures decide nothing: what cannot be printed is dropped, and the exit code stays.

A terminal is closed, a reader ends, a disk fills up: a service goes on, and ends as if it had been read to the end. For
the other commands this holds of standard error alone: their result goes to standard output, where a failure is theirs.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from typing import Any, Final

__all__ = [
    "COMPLETE_VARIABLE",
    "discard_rest",
    "escape_unprintable",
    "has_lost_reader",
    "make_lenient",
    "serve_without_terminal",
]

COMPLETE_VARIABLE: Final = "_HEARTHNET_COMPLETE"  # what a shell asks for, by the name that click gives it
_OF_TERMINALS: Final = ("SIGHUP", "SIGTTOU")


class _Lenient(io.FileIO):
    """A descriptor to which every write succeeds, as far as the writer can tell."""

    def __init__(self, fd: int, *, may_wait: bool) -> None:
        super().__init__(fd, "w", closefd=False)
        self._may_wait = may_wait

    def write(self, content: Any, /) -> int:
        """Writes what can be written, and returns the length of all of it."""
        try:
            if self._may_wait or _is_writable(self.fileno()):
                return super().write(content) or 0
        except OSError:
            pass
        return memoryview(content).nbytes


def _is_writable(fd: int) -> bool:
    """Returns whether a line can be written at once: a reader may be stopped, and a terminal by Ctrl-S."""
    return not hasattr(select, "poll") or _polled(fd, select.POLLOUT)


def has_lost_reader() -> bool:
    """Returns whether the other end of standard output is closed."""
    return hasattr(select, "poll") and _polled(sys.stdout.fileno(), 0)


def _polled(fd: int, events: int) -> bool:
    poller = select.poll()
    poller.register(fd, events)  # errors and hang-ups are always reported
    return bool(poller.poll(0))


def make_lenient(name: str, *, may_wait: bool = True) -> None:
    """Replaces `sys.stdout` or `sys.stderr` by one that never raises, unless a program has put its own there.

    Args:
        name: `stdout` or `stderr`.
        may_wait: whether to wait for a slow reader; otherwise what it cannot take is dropped.
    """
    stream = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__"):
        return
    raw = io.BufferedWriter(_Lenient(stream.fileno(), may_wait=may_wait))
    made = io.TextIOWrapper(raw, encoding=stream.encoding, errors="backslashreplace", line_buffering=True)
    setattr(sys, name, made)
    setattr(sys, f"__{name}__", made)


def escape_unprintable() -> None:
    """Lets standard output escape what its encoding lacks, such as the bytes of a path that is not UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_rest() -> None:
    """Drops what standard output could not write: the interpreter would try again, and change the exit code."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def serve_without_terminal() -> None:
    """Makes a service independent of its output, and of the terminal that it was started in.

    That may be closed, and may stop programs that print in the background.
    """
    for name in ("stdout", "stderr"):
        make_lenient(name, may_wait=False)
    for name in _OF_TERMINALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
