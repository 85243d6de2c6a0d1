"""Uncaught errors are recorded: warnings, exceptions of threads and loops, and unraisable ones."""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from types import SimpleNamespace

import orjson
import pytest
from support import forkserver
from support.reading import log_lines

from hearthnet.observability import get_logger
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logs.daily_file import log_paths
from hearthnet.observability.process import uncaught as capture


@pytest.fixture
def lines(observability):
    """Configures logging; returns what the JSON log says at the time of asking, without the ids of time."""
    node_logging.install_sinks(observability)

    return lambda: log_lines(observability.log_dir)


@pytest.fixture
def below(monkeypatch):
    """What the hooks that were there before are called with, by name. pytest's own would fail the test."""
    calls = SimpleNamespace(uncaught=[], thread=[], unraisable=[], warning=[])
    monkeypatch.setattr(sys, "excepthook", lambda *found: calls.uncaught.append(found[0]))
    monkeypatch.setattr(threading, "excepthook", lambda found: calls.thread.append(found.exc_type))
    monkeypatch.setattr(sys, "unraisablehook", lambda found: calls.unraisable.append(found.exc_type))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda *found: calls.warning.append(str(found[0])))
        yield calls
        capture.uninstall()


@pytest.fixture
def captured(lines, below):
    """Capture is installed, on top of hooks that only note."""
    capture.install()
    return lines


class LockedError(Exception):
    """An error of a test."""


def raised(error: BaseException) -> BaseException:
    """The error with a traceback."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


def in_thread(function) -> None:
    """Runs a function in a thread and waits for its end."""
    thread = threading.Thread(target=function, name="worker-7")
    thread.start()
    thread.join()


def fail() -> None:
    """Fails."""
    raise LockedError("in a thread")


def test_warning_becomes_a_record(captured, below):
    """A Python warning is a JSON line with category, text and place, under the standard library's name, not printed."""
    warnings.warn("the old way of calling", DeprecationWarning, stacklevel=1)

    (line,) = captured()
    assert (line["level"], line["logger"], line["msg"]) == ("warning", "py.warnings", "python warning")
    assert (line["category"], line["text"]) == ("DeprecationWarning", "the old way of calling")
    assert line["file"] == __file__
    assert isinstance(line["line"], int)
    assert below.warning == []


def test_warnings_of_one_place_are_limited(captured):
    """A thousand warnings of one place in a moment are one record or two, those of another place one of their own."""
    for number in range(1_000):
        warnings.warn(f"number {number}", RuntimeWarning, stacklevel=1)
    warnings.warn("elsewhere", RuntimeWarning, stacklevel=1)

    texts = [line["text"] for line in captured()]
    assert texts[0] == "number 0"
    assert texts[-1] == "elsewhere"
    assert len(texts) < 20  # one a second, however slow the machine


def test_warning_for_a_file_goes_there(captured, below):
    """A warning with a file to print to is printed there."""
    warnings.showwarning("text", UserWarning, "f.py", 1, sys.stderr)

    assert (captured(), below.warning) == ([], ["text"])


def test_warning_that_nobody_would_see_is_printed(below):
    """Without a handler anywhere, a warning is printed as ever."""
    capture.install()
    root_handlers = get_logger("py.warnings").root.handlers
    kept, root_handlers[:] = root_handlers[:], []
    try:
        warnings.warn("unheard", UserWarning, stacklevel=1)
    finally:
        root_handlers[:] = kept

    assert below.warning == ["unheard"]


def test_uncaught_exception_is_critical_and_the_hook_before_runs(captured, below):
    """An exception at the top is a critical record with type, message and traceback; the previous hook sees it too."""
    error = raised(LockedError("the key is in use"))
    sys.excepthook(type(error), error, error.__traceback__)

    (line,) = captured()
    assert (line["level"], line["msg"]) == ("critical", "uncaught exception")
    assert line["exc"].startswith("Traceback (most recent call last):")
    assert line["exc"].endswith("LockedError: the key is in use")
    assert below.uncaught == [LockedError]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_ctrl_c_and_exit_are_no_errors(captured, below, error):
    """Ctrl-C and `sys.exit` leave no record, whichever hook they come to, and go on to what was there."""
    failed = capture.failures()
    sys.excepthook(type(error), error, None)
    threading.excepthook(SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=None, thread=None))
    sys.unraisablehook(SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=None, object=None))

    assert captured() == []
    assert below.uncaught == below.thread == below.unraisable == [type(error)]
    assert capture.failures() == failed


def test_thread_that_dies_is_recorded_by_name(captured, below):
    """An exception that ends a thread is an error with the thread's name and the traceback."""
    in_thread(fail)

    (line,) = captured()
    assert (line["level"], line["msg"], line["thread"]) == ("error", "uncaught exception in a thread", "worker-7")
    assert line["exc"].endswith("LockedError: in a thread")
    assert below.thread == [LockedError]


def test_unraisable_exception_is_recorded(captured, below):
    """What `__del__` raises is an error that names the object's method, and the object is not brought back by it."""

    class Leaky:
        def __del__(self):
            raise LockedError("while going")

    leaky = Leaky()
    del leaky

    (line,) = captured()
    assert (line["level"], line["msg"], line["error"]) == ("error", "unraisable exception", "LockedError")
    assert line["in"].endswith("Leaky.__del__")
    assert line["exc"].endswith("LockedError: while going")
    assert below.unraisable == [LockedError]


def test_unraisable_without_a_value_is_recorded(captured):
    """If the interpreter has no exception object any more, its type is recorded."""
    sys.unraisablehook(
        SimpleNamespace(exc_type=MemoryError, exc_value=None, exc_traceback=None, err_msg=None, object=None)
    )

    (line,) = captured()
    assert (line["error"], line["what"], line["in"]) == ("MemoryError", "Exception ignored in", "NoneType")
    assert "exc" not in line


@pytest.mark.parametrize(
    ("text", "what", "name"),
    [
        (
            "Exception ignored while calling deallocator <function Leaky.__del__ at 0x7f3b2c0a1d30>",
            "Exception ignored while calling deallocator", "Leaky.__del__",
        ),
        (
            "Exception ignored while calling weakref callback <built-in function print at 0x1F>",
            "Exception ignored while calling weakref callback", "print",
        ),
        (
            "Exception ignored while finalizing coroutine <coroutine object run.<locals>.later at 0x7f00>",
            "Exception ignored while finalizing coroutine", "run.<locals>.later",
        ),
        ("Exception ignored on threading shutdown", "Exception ignored on threading shutdown", "NoneType"),
    ],
)  # fmt: skip
def test_unraisable_names_its_object_without_an_address(captured, text, what, name):
    """As Python 3.14 tells it: equal errors are one message, and the name is that of the method."""
    error = ValueError("x")
    sys.unraisablehook(
        SimpleNamespace(exc_type=ValueError, exc_value=error, exc_traceback=None, err_msg=text, object=None)
    )

    (line,) = captured()
    assert (line["what"], line["in"]) == (what, name)


def test_error_in_a_loop_is_recorded_once(captured):
    """A callback that raises and a task that was never awaited are one error each, without asyncio's own line."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        capture.watch_loop(loop)
        capture.watch_loop(loop)
        loop.call_soon(fail)
        task = asyncio.create_task(asyncio.to_thread(fail), name="left-alone")
        await asyncio.wait({task})
        del task

    asyncio.run(main())

    lines = captured()
    assert {line["msg"] for line in lines} == {"error in the event loop"}
    assert all(line["exc"].endswith("LockedError: in a thread") for line in lines)
    assert sorted((str(line["task"]), line["what"].partition(" in ")[0]) for line in lines) == [
        ("None", "Exception"),
        ("left-alone", "Task exception was never retrieved"),
    ]


async def test_handler_of_a_loop_runs_and_comes_back(captured):
    """A handler that the program has set runs as well, and is there again after `uninstall`."""
    loop = asyncio.get_running_loop()
    seen = []

    def own(_, context):
        seen.append(context["message"])

    loop.set_exception_handler(own)
    capture.watch_loop(loop)
    loop.call_exception_handler({"message": "something"})
    capture.uninstall()
    loop.call_exception_handler({"message": "later"})

    assert seen == ["something", "later"]
    assert [line["what"] for line in captured()] == ["something"]
    assert loop.get_exception_handler() is own
    loop.set_exception_handler(None)


def test_loop_without_a_handler_has_none_again(captured):
    """`uninstall` gives a loop back as it was, also one that is closed, and forgets it."""
    loop = asyncio.new_event_loop()
    capture.watch_loop(loop)
    loop.close()
    capture.uninstall()

    assert loop.get_exception_handler() is None
    assert captured() == []


def test_install_and_uninstall_are_idempotent(lines, below):
    """Installed twice it records once; taken away, everything is what it was."""
    before = (sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning)
    capture.install()
    capture.install()
    in_thread(fail)
    assert len(lines()) == 1

    capture.uninstall()
    capture.uninstall()
    assert (sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning) == before
    in_thread(fail)
    assert len(lines()) == 1
    assert below.thread == [LockedError, LockedError]


def test_hook_that_others_put_on_top_is_theirs(lines, below, monkeypatch):
    """Who hooked in after us stays; our hook below only passes on then, and a second `install` makes no circle."""
    capture.install()
    ours = sys.excepthook
    theirs = []

    def on_top(*found):
        theirs.append(found[0])
        ours(*found)

    monkeypatch.setattr(sys, "excepthook", on_top)
    capture.uninstall()
    assert sys.excepthook is on_top
    sys.excepthook(LockedError, LockedError("unrecorded"), None)
    assert lines() == []

    capture.install()
    sys.excepthook(LockedError, LockedError("recorded"), None)
    assert [line["exc"] for line in lines()] == [f"{LockedError.__module__}.LockedError: recorded"]
    assert theirs == below.uncaught == [LockedError, LockedError]


def test_hostile_input_raises_nothing_and_is_counted(captured, below):
    """A hook that is called with nonsense passes it on, counts, and works the next time."""
    failed = capture.failures()
    sys.excepthook("no type", None, None)
    assert capture.failures() == failed + 1
    assert below.uncaught == ["no type"]

    class Mute(UserWarning):
        def __str__(self):
            raise LockedError("no text")

    warnings.showwarning(Mute(), Mute, "f.py", 1)
    assert captured()[-1]["text"] == "[Mute: str() raised LockedError]"


def test_warning_within_a_hook_does_not_come_back(captured, below):
    """Warnings of the recording itself are passed to the hook before: no hook calls itself."""

    class ChattyError(LockedError):
        def __str__(self):
            warnings.warn("from within", UserWarning, stacklevel=1)
            return "chatty"

    error = raised(ChattyError())
    sys.excepthook(ChattyError, error, None)

    assert [line["exc"].splitlines()[-1].endswith("ChattyError: chatty") for line in captured()] == [True]
    assert "from within" in below.warning


def test_capturing_records_what_leaves_the_block(lines, below):
    """The exception that ends the block is recorded and raised; the hooks are removed."""
    before = sys.excepthook

    def run_captured():
        with capture.capturing():
            assert sys.excepthook is not before
            raise LockedError("out of here")

    with pytest.raises(LockedError):
        run_captured()

    assert [(line["level"], line["msg"]) for line in lines()] == [("critical", "uncaught exception")]
    assert sys.excepthook is before


def test_error_that_leaves_the_block_is_printed_without_its_secrets(lines, below, monkeypatch, capsys):
    """By the hook that then runs, where that would be the interpreter's; nothing else of ours stays."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(LockedError) as left, capture.capturing():
        raise LockedError("no entry: token=abcd1234efgh5678")
    sys.excepthook(left.type, left.value, left.tb)

    assert capsys.readouterr().err.splitlines()[-1].endswith("LockedError: no entry: token=[redacted]")
    assert [line["msg"] for line in lines()] == ["uncaught exception"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_capturing_records_no_ordinary_end(lines, below, error):
    """Ctrl-C, `sys.exit` and a cancellation end a block like any other."""
    with pytest.raises(error), capture.capturing():
        raise error

    assert lines() == []


def test_capturing_leaves_what_the_program_installed(lines, below):
    """A block within a program that has capture already takes nothing away from it."""
    capture.install()
    hook = sys.excepthook
    with capture.capturing():
        assert sys.excepthook is hook

    assert sys.excepthook is hook


ENDS: dict[str, str] = {
    "with": "with telemetry.open(folder):\n    fail()",
    "async with": "async def main():\n    async with telemetry.open(folder):\n        fail()\nasyncio.run(main())",
    "with hooks": "with telemetry.open(folder), uncaught.capturing():\n    fail()",
    "kept open": "telemetry.keep_open(folder)\nfail()",
    "kept open, with hooks": "telemetry.keep_open(folder)\nuncaught.install()\nfail()",
    "kept open, in a block": "telemetry.keep_open(folder)\nwith uncaught.capturing():\n    fail()",
}


@pytest.mark.parametrize("way", ENDS)
def test_exception_that_ends_a_program_is_recorded_once(tmp_path, way):
    """However telemetry is opened, with and without hooks; what else the program prints stays as it is."""
    script = f"""
import asyncio
from hearthnet import telemetry
from hearthnet.observability.process import uncaught
folder = {str(tmp_path)!r}
def fail():
    raise LookupError("gone")
{ENDS[way]}
"""
    done = forkserver.run([sys.executable, "-c", script])

    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "LookupError: gone")
    assert done.stderr.count("Traceback") == 1
    assert rows(tmp_path) == [("critical", "uncaught exception")]


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "raise KeyboardInterrupt", "pass"])
@pytest.mark.parametrize("opening", ["with telemetry.open(folder): ", "telemetry.keep_open(folder); "])
def test_other_ends_are_no_exceptions(tmp_path, opening, end):
    """Ctrl-C and an exit by intention."""
    script = f"from hearthnet import telemetry\nfolder = {str(tmp_path)!r}\n{opening}{end}"
    forkserver.run([sys.executable, "-c", script])

    assert rows(tmp_path) == []


def test_session_that_goes_on_has_not_ended(monkeypatch):
    """An interactive one prints an exception as the end of a program is printed; so do tests that fail."""
    error = None
    monkeypatch.delattr(sys, "ps1", raising=False)  # IPython sets it for good
    try:
        exec("1 / 0", {"__name__": "__main__"})
    except ZeroDivisionError as caught:
        error = caught.with_traceback(caught.__traceback__.tb_next)
    monkeypatch.setattr(sys, "last_exc", error, raising=False)
    assert capture.of_program() is error
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert capture.of_program() is None
    monkeypatch.delattr(sys, "ps1")
    monkeypatch.setattr(sys, "last_exc", raised(LockedError()))
    assert capture.of_program() is None


def test_same_error_again_is_another_one(lines, below):
    """One that was dealt with says nothing of the next, which may have its address."""
    for _ in range(2):
        with pytest.raises(LockedError), capture.capturing():
            raise LockedError("twice")
    assert [line["msg"] for line in lines()] == ["uncaught exception"] * 2


def test_uncaught_exception_of_a_program_survives_it(tmp_path):
    """A program that ends with a traceback has it in the log, in the database, and on stderr, without its secrets."""
    script = f"""
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry
from hearthnet.observability.process import uncaught as capture
settings = ObservabilityConfig(data_dir=Path({str(tmp_path / "data")!r}), log_dir=Path({str(tmp_path / "logs")!r}))
with telemetry.open(settings), capture.capturing():
    raise KeyError("missing token=abcd1234efgh5678")
"""
    done = forkserver.run([sys.executable, "-c", script])
    (path,) = log_paths(tmp_path / "logs")
    found = [line for raw in path.read_bytes().splitlines() if (line := orjson.loads(raw))["level"] == "critical"]

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "KeyError: 'missing token=[redacted]'"
    assert [line["exc"].splitlines()[-1] for line in found] == ["KeyError: 'missing token=[redacted]'"]
    assert rows(tmp_path / "data") == [("critical", "uncaught exception")]


def test_uncaught_exception_of_a_program_that_is_killed_at_once_survives(tmp_path):
    """Nothing is flushed in the hook: the black box has the record, and the next start takes it in."""
    script = f"""
import os, signal, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry
from hearthnet.observability.process import uncaught as capture
sys.excepthook = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
data_dir, log_dir = Path({str(tmp_path / "data")!r}), Path({str(tmp_path / "logs")!r})
telemetry.open(ObservabilityConfig(data_dir=data_dir, log_dir=log_dir, flush_interval_s=60)).start()
capture.install()
{{}}["missing"]
"""
    assert forkserver.run([sys.executable, "-c", script]).returncode == -9

    script = script.partition("capture.install()")[0] + "telemetry.opened().close()"
    assert forkserver.run([sys.executable, "-c", script]).returncode == 0
    assert rows(tmp_path / "data") == [("critical", "uncaught exception")]


def rows(directory) -> list[tuple[str, str]]:
    """Level and message of the critical records in a closed database."""
    import sqlite3

    connection = sqlite3.connect(f"file:{directory / 'telemetry.db'}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT level, msg FROM logs WHERE level = 'critical'").fetchall()
    finally:
        connection.close()
