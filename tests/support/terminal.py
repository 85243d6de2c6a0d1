"""Runs the command line on a pseudo-terminal, as a person would see it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from typing import NamedTuple

from support import forkserver

# Of the person who runs the tests; what is shown must not depend on them.
_THEIRS = ("COLUMNS", "LC_ALL", "LINES", "NO_COLOR")


class Shown(NamedTuple):
    """What came of a command: its exit code, what it sent to the terminal, and what to standard error apart."""

    code: int
    text: str
    stderr: str


def on_terminal(
    *arguments: str, columns: int = 80, answer: bytes = b"", stderr_apart: bool = False, **environment: str
) -> Shown:
    """Runs `hearthnet` on a terminal of so many columns and types an answer."""
    command = [sys.executable, "-m", "hearthnet", *arguments]
    return command_on_terminal(command, columns, answer, stderr_apart=stderr_apart, **environment)


def command_on_terminal(
    command: list[str],
    columns: int = 80,
    answer: bytes = b"",
    *,
    stderr_apart: bool = False,
    cwd: str | None = None,
    **environment: str,
) -> Shown:
    """Runs a program of Python's there."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in _THEIRS}
    given = {**plain, "TERM": "xterm-256color", **environment}
    streams = {"stdin": follower, "stdout": follower, "stderr": subprocess.PIPE if stderr_apart else follower}
    with forkserver.spawn(command, **streams, cwd=cwd, env=given, text=True) as process:
        os.close(follower)
        os.write(leader, answer)
        sent = b""
        while select.select([leader], [], [], 60)[0]:
            try:
                sent += os.read(leader, 65_536)
            except OSError:  # the other end is closed: the command has ended
                break
        code = process.wait(60)
        apart = process.stderr.read() if stderr_apart else ""
    os.close(leader)
    return Shown(code, sent.decode().replace("\r\n", "\n"), apart)
