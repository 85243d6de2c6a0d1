"""The console: what it shows in which mode, to whom, and what it leaves to the program's own handlers."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console as RichConsole
from rich.logging import RichHandler
from support import forkserver
from support.reading import log_lines

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logs import console
from hearthnet.observability.process import uncaught
from hearthnet.observability.runtime import runtime

NAME = "app.test_console"
MODES = ["auto", "text", "json"]


class Terminal(io.StringIO):
    """A text that passes for a terminal."""

    def isatty(self):
        """True."""
        return True


@pytest.fixture
def plain(monkeypatch):
    """A terminal without colours."""
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def shown(tmp_path, plain):
    """Configures logging with a console, runs something, and returns the lines that it shows."""

    def run(doing, mode="auto", stream=None):
        with redirect_stderr(stream or io.StringIO()) as out:
            node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path), console=mode)
            doing()
        return out.getvalue().splitlines()

    return run


def all_levels():
    """A record of each level."""
    log = get_logger(NAME)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("said", extra={"n": 1})


def levels_in(lines):
    """The levels of the lines."""
    return [line.partition(f" {NAME}")[0].split()[-1] for line in lines]


def test_terminal_shows_all_that_is_logged(shown):
    """From the level of the settings on."""
    lines = shown(all_levels, stream=Terminal())

    assert levels_in(lines) == ["info", "warning", "error", "critical"]
    assert lines[0].endswith(f"info    {NAME}: said  n=1")


def test_without_a_terminal_warnings_and_errors_are_shown(shown):
    """So cron sends a mail if there is something to say."""
    assert levels_in(shown(all_levels)) == ["warning", "error", "critical"]


def test_text_shows_all(shown):
    """Wherever it goes."""
    assert levels_in(shown(all_levels, "text")) == ["info", "warning", "error", "critical"]


def test_json_shows_the_lines_of_the_log(shown, tmp_path):
    """The same bytes."""
    lines = shown(all_levels, "json")

    assert [json.loads(line)["level"] for line in lines] == ["info", "warning", "error", "critical"]
    assert [json.loads(line) for line in lines] == log_lines(tmp_path)


def test_off_shows_nothing(shown):
    """And leaves nothing to the standard library's last resort."""
    assert shown(all_levels, "off") == []


@pytest.mark.parametrize("mode", ["", "TEXT", "rich", None, True])
def test_other_modes_are_refused(mode):
    """Before anything is opened."""
    with pytest.raises(ValueError, match="console is one of auto, off, text, json"):
        telemetry.open(console=mode)
    with pytest.raises(ValueError, match="console is one of"):
        node_logging.install_sinks(ObservabilityConfig(), console=mode)
    assert runtime.handler is None


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_shown_on_stdout(shown, mode):
    """It is the program's."""
    with redirect_stdout(io.StringIO()) as out:
        assert shown(all_levels, mode)

    assert out.getvalue() == ""


@pytest.mark.parametrize("mode", MODES)
def test_other_libraries_records_are_shown(shown, mode):
    """At the levels that they are logged at, by the standard library's rules."""

    def others():
        other = logging.getLogger("somelib.test_console")
        other.info("quiet")
        other.warning("loud %s", "enough")

    (line,) = shown(others, mode, Terminal())
    assert "loud enough" in line


def test_trace_that_has_ended_is_a_line(shown):
    """On a terminal each; elsewhere those that failed."""

    def work():
        with trace.new_trace("nightly"):
            pass
        with trace.new_trace("nightly") as begun:
            begun.fail("timeout", "too slow")

    assert [line.partition(" ms")[0].split()[1:4] for line in shown(work, stream=Terminal())] == [
        ["info", "nightly", "ok"],
        ["warning", "nightly", "timeout"],
    ]
    runtime.reset()
    (line,) = shown(work)
    assert "warning nightly timeout in" in line
    assert "ms: too slow  0" in line


def test_own_loggers_are_quiet(shown):
    """What telemetry does is of interest when it goes wrong; in the store, when it is an error."""

    def own():
        get_logger("hearthnet.observability.telemetry").info("fine")
        get_logger("hearthnet.observability.telemetry").warning("not fine")
        get_logger("hearthnet.observability.store.thread").warning("an effect")
        get_logger("hearthnet.observability.store.thread").error("an error")

    assert [line.rpartition(": ")[2] for line in shown(own, stream=Terminal())] == ["not fine", "an error"]


@pytest.mark.parametrize("mode", MODES)
def test_secrets_are_not_shown(shown, mode):
    """In messages, fields and tracebacks, of any logger."""

    def careless():
        for log in (get_logger(NAME), logging.getLogger("somelib.test_console")):
            try:
                raise ValueError("password=hunter2hunter2")
            except ValueError:
                log.exception("with password=hunter2hunter2", extra={"api_key": "hunter2hunter2"})

    text = "\n".join(shown(careless, mode))
    assert "hunter2" not in text
    assert text.count("[redacted]") >= 6


@pytest.mark.parametrize("mode", MODES)
def test_dropped_records_are_not_shown(shown, monkeypatch, mode):
    """A storm stays within the budget of its message; the count of the others is shown."""
    monkeypatch.setattr("hearthnet.observability.logs.messages.LINES_A_SECOND", 3)

    def storm():
        for _ in range(50):
            get_logger(NAME).warning("storm")
        node_logging.log_dropped(all_of_them=True)

    lines = shown(storm, mode)
    assert 4 <= len(lines) <= 8
    assert "repeats" in lines[-1]


def own_handlers():
    """Handlers of a program that print to the console."""
    return {
        "stderr": logging.StreamHandler,
        "stdout": lambda: logging.StreamHandler(sys.stdout),
        "rich": lambda: RichHandler(console=RichConsole(file=sys.stderr)),
    }


@pytest.mark.parametrize("kind", own_handlers())
@pytest.mark.parametrize("where", ["", "app"])
@pytest.mark.parametrize("is_before", [True, False])
def test_record_that_the_program_prints_is_not_shown_twice(shown, monkeypatch, kind, where, is_before):
    """Whether its handler is the root's or a package's, and was there before or came later."""
    monkeypatch.setattr(logging.root, "handlers", [])
    with redirect_stdout(io.StringIO()) as stdout:

        def add():
            handler = own_handlers()[kind]()
            logging.getLogger(where).addHandler(handler)
            return handler

        def work():
            handler = None if is_before else add()
            get_logger(NAME).warning("said")
            logging.getLogger(where).removeHandler(handler)

        if is_before:
            with redirect_stderr(io.StringIO()) as stderr:
                handler = add()
                node_logging.install_sinks(ObservabilityConfig(), console="auto")
                get_logger(NAME).warning("said")
                logging.getLogger(where).removeHandler(handler)
            text = stderr.getvalue()
        else:
            text = "\n".join(shown(work))

    assert (text + stdout.getvalue()).count("said") == 1


@pytest.mark.parametrize("mode", ["text", "json"])
def test_mode_that_is_chosen_shows_a_record_in_any_case(shown, mode):
    """A library that calls `basicConfig` must not take the lines from a container's log."""

    def work():
        own = logging.StreamHandler(io.StringIO())
        own.stream = sys.stderr
        logging.root.addHandler(own)
        get_logger(NAME).warning("said")
        logging.root.removeHandler(own)

    assert len(shown(work, mode)) == 2


@pytest.mark.parametrize("kind", ["file", "memory", "level", "filter", "strange"])
def test_record_that_the_program_does_not_print_is_shown(shown, tmp_path, kind):
    """Its handlers may write elsewhere, or from another level on."""

    class Strange(logging.Handler):
        stream = property(lambda self: 1 / 0)

        def emit(self, record):
            """Takes it."""

    def work():
        own = {
            "file": lambda: logging.FileHandler(tmp_path / "own.log"),
            "memory": lambda: logging.StreamHandler(io.StringIO()),
            "level": lambda: logging.StreamHandler(sys.stderr),
            "filter": lambda: logging.StreamHandler(sys.stderr),
            "strange": Strange,
        }[kind]()
        own.setLevel(logging.ERROR if kind == "level" else logging.DEBUG)
        if kind == "filter":
            own.addFilter(lambda record: record.name == "mine")
        logging.root.addHandler(own)
        get_logger(NAME).warning("said")
        logging.root.removeHandler(own)
        own.close()

    assert len(shown(work)) == 1
    assert runtime.handler.console.failures == 0
    assert [line["msg"] for line in log_lines(tmp_path)] == ["said"]


@pytest.mark.parametrize("kind", ["target", "listener"])
def test_handler_that_passes_on_prints_if_its_next_one_does(shown, kind):
    """What is behind a queue is known from Python 3.12 on."""

    def work():
        printing = logging.StreamHandler(sys.stderr)
        own = logging.NullHandler()
        setattr(own, kind, SimpleNamespace(handlers=[printing]) if kind == "listener" else printing)
        logging.root.addHandler(own)
        get_logger(NAME).warning("said")
        logging.root.removeHandler(own)

    assert shown(work) == []


@pytest.mark.parametrize("mode", MODES)
def test_stderr_that_leads_to_the_log(shown, tmp_path, mode):
    """A line of the console is no record again, and a record that the program prints still is."""

    class ToLog(io.StringIO):
        def write(self, text):
            for line in text.rstrip().splitlines():
                logging.getLogger("stderr").warning(line)
            return len(text)

    def work():
        get_logger(NAME).warning("said")
        print("printed", file=sys.stderr)

    shown(work, mode, ToLog())

    assert [line["msg"] for line in log_lines(tmp_path)] == ["said", "printed"]


def test_control_characters_in_json(shown):
    """Are escaped, those that JSON allows too."""
    hostile = "c1 \x9b31m bidi \u202e del \x7f"

    (line,) = shown(lambda: get_logger(NAME).warning(hostile, extra={hostile: 1}), "json")

    assert json.loads(line)["msg"] == hostile
    assert not set(line) & set("\x7f\x9b\u202e")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "UTF_8"])
def test_json_is_json_in_every_encoding(tmp_path, encoding):
    """Python's own escapes, as of an ASCII stderr in a container without a locale, would break the line."""
    text = "tür \u20ac \U0001f600 \x9b"
    path = tmp_path / "stderr"
    with path.open("w", encoding=encoding, errors="backslashreplace") as stream, redirect_stderr(stream):
        node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path), console="json")
        get_logger(NAME).warning(text, extra={"k": text})

    raw = path.read_bytes()
    assert [json.loads(raw)[key] for key in ("msg", "k")] == [text, text]
    assert raw.isascii() != encoding.startswith(("u", "U"))


def test_basic_config_in_the_middle(shown):
    """The program's handler prints from then on, and ours stops; nothing is shown twice, or not at all."""

    def work():
        get_logger(NAME).warning("before")
        logging.basicConfig(force=True, format="own %(message)s")
        get_logger(NAME).warning("after")
        for handler in logging.root.handlers:
            if type(handler) is logging.StreamHandler:
                logging.root.removeHandler(handler)

    before = logging.root.handlers[:]
    lines = shown(work)
    logging.root.handlers[:] = before

    assert [line.rpartition(": ")[2] for line in lines] == ["before", "own after"]


def test_what_hooks_record_is_shown_once(tmp_path, plain):
    """The interpreter prints an uncaught exception itself; a warning and the loop's errors it does not."""
    program = f"""
import asyncio, threading, warnings
from hearthnet import telemetry
from hearthnet.observability.process import uncaught

async def main():
    loop = asyncio.get_running_loop()
    uncaught.watch_loop(loop)
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)

with telemetry.open({str(tmp_path)!r}), uncaught.capturing():
    warnings.warn("old")
    asyncio.run(main())
    thread = threading.Thread(target=lambda: [][1])
    thread.start()
    thread.join()
    raise KeyError("the end")
"""
    done = forkserver.run([sys.executable, "-c", program])

    assert done.stderr.count("KeyError: 'the end'") == 1
    assert done.stderr.count("IndexError") == 1
    assert done.stderr.count("ZeroDivisionError") == 1
    assert done.stderr.count("python warning") == 1


def test_stream_may_change_while_it_is_open(shown):
    """A terminal that is redirected to a file has warnings alone from then on."""
    file = io.StringIO()

    def work():
        get_logger(NAME).info("on the terminal")
        with redirect_stderr(file):
            get_logger(NAME).info("not in the file")
            get_logger(NAME).warning("in the file")
        get_logger(NAME).warning("on the terminal")
        get_logger(NAME).info("on the terminal")

    assert len(shown(work, stream=Terminal())) == 3
    assert file.getvalue().count("\n") == 1


def test_notebook_shows_all(shown):
    """Its stream is no terminal, but a person reads it."""
    kind = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})

    assert levels_in(shown(all_levels, stream=kind()))[0] == "info"


def test_console_that_cannot_show_costs_nothing_else(shown, monkeypatch, tmp_path):
    """A bug in it is counted, and the record is in the file and the store."""
    monkeypatch.setattr(console, "text_of_line", lambda *_, **__: 1 / 0)

    assert shown(lambda: get_logger(NAME).warning("said")) == []
    assert runtime.handler.console.failures == 1
    assert [line["msg"] for line in log_lines(tmp_path)] == ["said"]
    assert [row.msg for row in runtime.recorder.pending_logs()] == ["said"]


@pytest.mark.parametrize("mode", ["text", "json"])
def test_records_that_stderr_did_not_take_are_named(shown, mode, monkeypatch):
    """In the form of the others, and in the JSON log at the end."""
    notes = []
    monkeypatch.setattr(
        "hearthnet.observability.logs.standard_error.StandardError.write", lambda _, text, note: notes.append(note(3))
    )
    shown(lambda: get_logger(NAME).warning("said"), mode)

    (note,) = notes
    assert note.endswith("\n")
    assert "3" in note
    if mode == "json":
        assert list(json.loads(note)) == ["ts", "level", "logger", "msg", "missed"]


def test_console_of_the_json_log_alone_is_off(tmp_path):
    """`install_sinks` is for programs that want a file."""
    with redirect_stderr(io.StringIO()) as out:
        node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
        get_logger(NAME).error("said")

    assert out.getvalue() == ""


def record_in_child():
    """Logs, in a process of multiprocessing."""
    get_logger(NAME).warning("in the child")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_have_the_console_of_their_parent(tmp_path, method):
    """Forked, or started anew with its settings."""
    program = f"""
import multiprocessing
import test_console
from hearthnet import telemetry
if __name__ == "__main__":
    with telemetry.open({str(tmp_path)!r}, console="json"):
        process = multiprocessing.get_context({method!r}).Process(target=test_console.record_in_child)
        process.start()
        process.join()
"""
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = forkserver.run([sys.executable, tmp_path / "program.py"], env=environment)

    assert [json.loads(line)["msg"] for line in done.stderr.splitlines()] == ["in the child"]


def test_warnings_as_errors_do_not_matter(shown):
    """Whatever a program's filters are."""

    def work():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            get_logger(NAME).warning("said")

    assert len(shown(work)) == 1
    assert uncaught.failures() == 0
