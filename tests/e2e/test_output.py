"""Output decides nothing: whatever its streams are, a node serves and ends well, and a command ends with its code."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support import forkserver
from support.longer import few

# Takes the terminal that is its standard input as its controlling one, then is a node.
ON_ITS_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from hearthnet.cli.main import main
main(["run"])
"""


def full(_):
    """A disk without space."""
    return os.open("/dev/full", os.O_WRONLY)


def read_only(_):
    """A descriptor that cannot be written to: EBADF."""
    return os.open(os.devnull, os.O_RDONLY)


def unread(_):
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def stuck(closing):
    """A pipe that is full, whose reader has stopped."""
    reader, writer = os.pipe()
    closing.callback(os.close, reader)
    size = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, bytes(size))
    return writer


def hung_up(_):
    """A terminal that was closed: EIO."""
    leader, follower = pty.openpty()
    os.close(leader)
    return follower


def paused(closing):
    """A terminal that Ctrl-S has stopped."""
    leader, follower = pty.openpty()
    closing.callback(os.close, leader)
    termios.tcflow(follower, termios.TCOOFF)
    return follower


STREAMS = [full, read_only, unread, stuck, hung_up, paused]


@contextmanager
def opened(make):
    """Gives the descriptor of a stream, and closes what was made for it."""
    with ExitStack() as closing:
        descriptor = make(closing)
        closing.callback(os.close, descriptor)
        yield descriptor


@pytest.mark.parametrize("make", few(STREAMS, full, stuck, paused), ids=lambda make: make.__name__)
def test_node_serves_whatever_its_streams_are(stopped_node, make):
    """It says nothing to anyone, serves, and ends with 0."""
    with opened(make) as stream:
        stopped_node.start(stdout=stream, stderr=stream)

        assert stopped_node.echo().status_code == 200
        assert stopped_node.stop() == 0
    assert stopped_node.sql("SELECT end_reason FROM runs") == [("clean",)]


def test_reader_of_one_line_does_not_end_the_node(stopped_node):
    """As under `| head -1`: the rest of what it prints is dropped."""
    reader, writer = os.pipe()
    stopped_node.process = forkserver.spawn(stopped_node.command, stdout=writer, stderr=writer)
    os.close(writer)
    assert os.read(reader, 5) == b"node "
    os.close(reader)
    stopped_node.wait_until_ready()

    assert stopped_node.echo().status_code == 200
    assert stopped_node.stop() == 0


def test_node_outlives_its_terminal(stopped_node):
    """Its controlling terminal is closed while it serves, which ends a program that does not care for SIGHUP."""
    leader, follower = pty.openpty()
    stopped_node.command = [sys.executable, "-c", ON_ITS_TERMINAL]
    stopped_node.start(stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    os.close(leader)

    assert stopped_node.echo().status_code == 200
    assert stopped_node.stop() == 0


def test_node_that_cannot_start_keeps_its_exit_code(stopped_node, monkeypatch):
    """Nobody can be told why, and the code says it all the same: no key is 1, no valid setting is 1."""
    (stopped_node.home / ".local/share/hearthnet/keys/device.ed25519").unlink()

    for make in STREAMS:
        with opened(make) as stream:
            process = forkserver.spawn(stopped_node.command, stdout=stream, stderr=stream)
            assert process.wait(60) == 1, make.__name__


COMMANDS = [
    line.split(maxsplit=2)
    for line in (
        "--help", "version", "paths", "caps", "status", "log", "trace recent", "doctor", "autopsy", "telemetry info",
        "telemetry sql SELECT * FROM runs", "init --non-interactive", "nonsense",
    )
]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", few(COMMANDS, ["doctor"], ["log"], ["trace", "recent"], ["autopsy"]), ids=" ".join
)
def test_command_ends_quietly_when_its_reader_has_gone(shared_node, arguments):
    """The exit code is that of a reader that has read all, or 0; no traceback is printed."""
    whole = forkserver.run([sys.executable, "-m", "hearthnet", *arguments], env=_env(shared_node))
    with opened(unread) as stream:
        command = [sys.executable, "-m", "hearthnet", *arguments]
        with forkserver.spawn(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.PIPE, env=_env(shared_node), text=True
        ) as process:
            _, complaints = process.communicate()

    assert process.returncode in (0, whole.returncode)
    assert "Traceback" not in complaints
    assert "Broken pipe" not in complaints


@pytest.mark.parametrize("arguments", few(COMMANDS, ["doctor"], ["nonsense"], ["log"], ["--help"]), ids=" ".join)
def test_command_has_its_code_without_standard_error(shared_node, arguments):
    """Complaints that nobody can read change nothing."""
    whole = forkserver.run([sys.executable, "-m", "hearthnet", *arguments], env=_env(shared_node))
    for make in (full, unread, hung_up):
        with opened(make) as stream:
            command = [sys.executable, "-m", "hearthnet", *arguments]
            process = forkserver.spawn(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream, env=_env(shared_node)
            )

            assert process.wait(60) == whole.returncode, make.__name__


@pytest.mark.parametrize("make", [full, hung_up, read_only], ids=lambda make: make.__name__)
def test_result_that_cannot_be_printed_is_an_error(shared_node, make):
    """A command whose result is lost says so, once, and not by a traceback."""
    with (
        opened(make) as stream,
        forkserver.spawn(
            [sys.executable, "-m", "hearthnet", "paths"],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.PIPE, env=_env(shared_node), text=True,
        ) as process,
    ):  # fmt: skip
        _, complaints = process.communicate()

    assert process.returncode == (5 if make is full else 1)
    assert complaints.startswith("error: ")
    assert "Traceback" not in complaints
    assert "Exception ignored" not in complaints


def _env(node) -> dict[str, str]:
    return {**os.environ, "HOME": str(Path(node.home))}
