"""stderr that is full, gone, closed, or something else: the program neither waits for long nor hears of it."""

from __future__ import annotations

import fcntl
import io
import os
import sys
import threading
from contextlib import redirect_stderr, suppress

import pytest
from support import forkserver
from support.waiting import wait_until

from hearthnet.observability.logs import standard_error
from hearthnet.observability.logs.standard_error import StandardError


def note(count):
    """The line about dropped ones."""
    return f"{count} dropped\n"


class Pipe:
    """A small pipe, and a stream that writes to it."""

    def __init__(self, encoding="utf-8"):
        self.reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8_192)
        os.set_blocking(self.reading, False)  # a test that finds nothing fails, and does not wait
        self.stream = os.fdopen(writing, "w", 1, encoding=encoding)

    def read(self):
        """What is in it."""
        return os.read(self.reading, 100_000)


@pytest.fixture
def pipe(monkeypatch):
    """Makes it stderr for a block; the wait for space is short."""
    monkeypatch.setattr(standard_error, "WAIT_S", 0.001)
    pipe = Pipe()
    yield pipe
    for end in (pipe.stream.close, lambda: os.close(pipe.reading)):
        with suppress(OSError):
            end()


def test_text_is_written_at_once(pipe):
    """Behind the program's own lines."""
    with redirect_stderr(pipe.stream):
        print("own", file=sys.stderr)
        StandardError().write("line\n", note)

        assert pipe.read() == b"own\nline\n"


def test_full_pipe_drops_and_counts(pipe):
    """The first line that does fit again says how many did not."""
    with redirect_stderr(pipe.stream):
        out = StandardError()
        line = "x" * 999 + "\n"
        for _ in range(10):
            out.write(line, note)
        taken = pipe.read()
        out.write("after\n", note)

        shown = len(taken) // len(line)
        assert 1 < shown < 10
        assert taken == line.encode() * shown
        assert pipe.read() == f"{10 - shown} dropped\nafter\n".encode()
        assert out.missed == 10 - shown


def test_text_longer_than_the_pipe_is_torn_and_the_next_begins_a_line(pipe):
    """Nothing of a record runs into another one."""
    with redirect_stderr(pipe.stream):
        out = StandardError()
        out.write("y" * 9_000 + "\n", note)
        assert pipe.read() == b"y" * 8_192
        out.write("after\n", note)

        assert pipe.read() == b"\n1 dropped\nafter\n"


def test_pipe_without_a_reader_is_left_alone(pipe):
    """Not even SIGPIPE comes of it."""
    with redirect_stderr(pipe.stream):
        os.close(pipe.reading)
        out = StandardError()
        out.write("line\n", note)
        out.write("line\n", note)

        assert out.missed == 0


def test_program_with_default_sigpipe_survives():
    """As tools that are used in pipelines set it."""
    program = """
import os, signal, sys
from hearthnet.observability.logs.standard_error import StandardError
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
reading, writing = os.pipe()
os.dup2(writing, 2)
os.close(reading), os.close(writing)
StandardError().write("line\\n", str)
print("alive")
"""
    done = forkserver.run([sys.executable, "-c", program], check=True)

    assert done.stdout == "alive\n"


def test_writers_at_once_do_not_wait_for_each_other(pipe):
    """One of them waits for space; the others drop theirs."""
    with redirect_stderr(pipe.stream):
        out = StandardError()
        line = "x" * 1_500 + "\n"
        threads = [threading.Thread(target=out.write, args=(line, note)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert not any(thread.is_alive() for thread in threads)
        assert out.missed + pipe.read().count(b"\n") >= 20


def test_forked_child_does_not_wait_for_a_lock_of_its_parent(pipe):
    """A thread of the parent may hold it at the fork."""
    with redirect_stderr(pipe.stream):
        out = StandardError()
        is_held, is_over = threading.Event(), threading.Event()

        def hold():
            with out._lock:
                is_held.set()
                is_over.wait(60)

        holding = threading.Thread(target=hold)
        holding.start()
        is_held.wait(60)
        pid = os.fork()
        if pid == 0:
            out.write("child\n", note)
            os._exit(0)
        os.waitpid(pid, 0)
        is_over.set()
        holding.join()

        assert pipe.read() == b"child\n"


@pytest.mark.parametrize("kind", ["none", "closed", "strange", "bad descriptor"])
def test_stderr_that_is_not_there(monkeypatch, kind):
    """Nothing is raised, whatever the program has made of it."""
    closed = io.StringIO()
    closed.close()

    class Strange:
        def __getattr__(self, name):
            raise RuntimeError(name)

    reading, writing = os.pipe()
    bad = os.fdopen(writing, "w", 1)
    os.close(writing)
    os.close(reading)
    monkeypatch.setattr(
        sys, "stderr", {"none": None, "closed": closed, "strange": Strange(), "bad descriptor": bad}[kind]
    )
    out = StandardError()
    out.write("line\n", note)

    assert not out.is_for_people
    assert not out.has_colour
    with suppress(OSError):
        bad.close()


def test_text_goes_where_stderr_is_redirected():
    """As `print` does; a text in memory has no descriptor."""
    out = StandardError()
    with redirect_stderr(io.StringIO()) as buffer:
        out.write("line\n", note)

    assert buffer.getvalue() == "line\n"


def test_text_follows_what_the_program_has_in_its_buffer(tmp_path):
    """A stream that buffers is written to, not its file."""
    with (tmp_path / "errors").open("w") as file, redirect_stderr(file):
        file.write("own\n")
        StandardError().write("line\n", note)

    assert (tmp_path / "errors").read_text() == "own\nline\n"


@pytest.mark.parametrize("buffering", [1, -1])
@pytest.mark.parametrize("can_open", [True, False])
def test_terminal_that_nothing_reads_does_not_stop_the_program(monkeypatch, buffering, can_open):
    """Its buffer is full in the midst of a line, whatever the stream before it is."""
    leader, follower = os.openpty()
    monkeypatch.setattr(standard_error, "WAIT_S", 0.001)
    if not can_open:  # it is another user's
        monkeypatch.setattr(standard_error, "_open_unblocked", lambda _: (None, 1))

    monkeypatch.setattr(sys, "stderr", os.fdopen(follower, "w", buffering, closefd=False))
    out = StandardError()
    for _ in range(3_000):
        out.write("x" * 99 + "\n", note)

    assert out.missed > 0
    monkeypatch.undo()
    os.close(leader)
    os.close(follower)


class Tee:
    """Writes to another stream, too."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        """As it comes."""
        self.stream.write(text)

    def flush(self):
        """At once."""
        self.stream.flush()


@pytest.mark.parametrize("kind", ["buffered", "object"])
def test_full_pipe_behind_a_stream_of_the_program_drops_and_counts(pipe, kind, monkeypatch):
    """One that has another encoding, or writes elsewhere, too."""
    stream = io.TextIOWrapper(os.fdopen(pipe.stream.fileno(), "wb", closefd=False), encoding="utf-8")
    monkeypatch.setattr(sys, "__stderr__", pipe.stream)
    stream = Tee(pipe.stream) if kind == "object" else stream
    with redirect_stderr(stream):
        out = StandardError()
        for _ in range(100):
            out.write("x" * 999 + "\n", note)

        assert out.missed > 0
        pipe.read()
        if kind == "buffered":
            out.close(note)
            assert f"{out.missed} dropped\n".encode() in pipe.read()


def test_library_that_takes_poll_away(pipe, monkeypatch):
    """As those do that replace what blocks."""
    monkeypatch.delattr("select.poll")
    with redirect_stderr(pipe.stream):
        out = StandardError()
        for _ in range(100):
            out.write("x" * 999 + "\n", note)

        assert pipe.read().startswith(b"xxx")
        assert out.missed > 0


def test_full_disk_is_counted(monkeypatch):
    """The line is lost."""
    with open("/dev/full", "w", 1) as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", full)
        out = StandardError()
        out.write("line\n", note)
        monkeypatch.undo()

    assert out.missed == 1


def test_characters_that_the_encoding_lacks_are_escaped():
    """In the C locale, say."""
    pipe = Pipe("ascii")
    with pipe.stream, redirect_stderr(pipe.stream):
        StandardError().write("日\n", note)

    assert pipe.read() == b"\\u65e5\n"
    os.close(pipe.reading)


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"FORCE_COLOR": "1", "TERM": "dumb"}, True)],
)
def test_terminal(monkeypatch, environment, has_colour):
    """It is for people; it has colours unless the person or the terminal has none."""
    import pty

    leader, follower = pty.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with os.fdopen(follower, "w", 1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        out = StandardError()
        monkeypatch.undo()
    os.close(leader)

    assert (out.is_for_people, out.has_colour) == (True, has_colour)


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_can_be_asked_for_without_a_terminal(monkeypatch, environment, has_colour):
    """As a CI service does, whose page shows them; NO_COLOR wins."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with redirect_stderr(io.StringIO()):
        out = StandardError()

    assert (out.is_for_people, out.has_colour) == (False, has_colour)


def test_stopped_terminal_does_not_stop_the_program(monkeypatch):
    """What it takes again later is whole lines."""
    import pty
    import termios

    leader, follower = pty.openpty()
    monkeypatch.setattr(standard_error, "WAIT_S", 0.001)
    with os.fdopen(follower, "w", 1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        out = StandardError()
        termios.tcflow(follower, termios.TCOOFF)
        for _ in range(300):
            out.write("x" * 999 + "\n", note)
        assert out.missed > 0
        termios.tcflow(follower, termios.TCOON)
        taken = bytearray()

        def read():
            while True:
                try:
                    taken.extend(os.read(leader, 65_536))
                except OSError:
                    return

        reading = threading.Thread(target=read)
        reading.start()
        wait_until(lambda: out.write("after\n", note) or b"after" in taken, lambda: bytes(taken[-100:]))
        monkeypatch.undo()
    reading.join(60)
    os.close(leader)

    assert b" dropped\r\n" in taken
