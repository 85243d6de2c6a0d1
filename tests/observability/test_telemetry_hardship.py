"""What the machine refuses to a program - threads, memory, its own files - never ends it, and costs no record."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import threading
from pathlib import Path

import pytest
from support.reading import rows

from hearthnet.forensics.box import boxes_in
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.store.thread import StoreThread
from hearthnet.observability.store.writer import Writer
from hearthnet.observability.telemetry import DATABASE

log = get_logger("app")


def refuse(*_):
    """Fails as at the limit of a control group, or of `ulimit -u`."""
    raise RuntimeError("can't start new thread")


@pytest.fixture
def no_more_threads(monkeypatch):
    """As if the limit were reached."""
    monkeypatch.setattr(threading.Thread, "start", refuse)
    return monkeypatch


def work():
    """Records a trace and a log record."""
    log.warning("at work")
    with trace.trace("work"):
        pass


def recorded(settings):
    """Returns the names of the traces and the program's log records, after the next opening."""
    with telemetry.open(settings):
        pass
    path = settings.data_dir / DATABASE
    traces = [name for (name,) in rows(path, "SELECT capability FROM traces")]
    return traces, [text for (text,) in rows(path, "SELECT msg FROM logs WHERE logger = 'app'")]


def test_program_without_threads_has_its_records_in_the_box(observability, no_more_threads, capfd):
    """It goes on, is told why, and the next process of the store has all of it."""
    with telemetry.open(observability, console="auto") as opened:
        work()
        assert opened.error == "no thread can be started: can't start new thread"
        assert not opened.flush(0.1)
    no_more_threads.undo()

    assert "telemetry is kept in the black box only" in capfd.readouterr().err
    assert recorded(observability) == (["work"], ["at work"])


def test_coroutine_without_threads_goes_on(observability, no_more_threads):
    """`async with` opens and closes in the loop's own thread then, and leaves no executor that cannot end."""

    async def main():
        async with telemetry.open(observability):
            work()
        return "done"

    assert asyncio.run(main()) == "done"
    no_more_threads.undo()
    assert recorded(observability) == (["work"], ["at work"])


def test_coroutine_that_runs_out_of_threads_is_closed(observability, monkeypatch):
    """The end of a block is its end, and commits, whatever the limit is by then."""

    async def main():
        async with telemetry.open(observability):
            work()
            monkeypatch.setattr(threading.Thread, "start", refuse)

    asyncio.run(main())
    monkeypatch.undo()
    assert rows(observability.data_dir / DATABASE, "SELECT end_reason FROM runs") == [("clean",)]


def test_cancelled_opening_ends_quietly(observability, monkeypatch):
    """The thread that opens goes on, as it cannot be stopped, and nobody waits for what it returns."""
    held, failures = threading.Event(), []

    begun = threading.Event()

    def start(opening):
        opening._is_to_be_entered = False
        begun.set()
        held.wait(10)

    monkeypatch.setattr(telemetry.Telemetry, "start", start)
    monkeypatch.setattr(threading, "excepthook", failures.append)

    async def main():
        task = asyncio.create_task(telemetry.open(observability).__aenter__())
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    held.set()
    for thread in threading.enumerate():
        if thread.name == "hearthnet-opening":
            thread.join(10)
    assert failures == []


def _child(settings):
    threading._start_new_thread = refuse
    work()


def test_forked_child_without_threads_has_its_records_in_a_box(observability):
    """A worker pool is where the limit is met first."""
    with telemetry.open(observability):
        child = multiprocessing.get_context("fork").Process(target=_child, args=(observability,))
        child.start()
        child.join(20)
        assert child.exitcode == 0

    assert recorded(observability) == (["work"], ["at work"])


def test_thread_that_runs_out_of_memory_at_the_end_leaves_the_box(observability, monkeypatch, capfd):
    """No traceback of a thread is printed, the run is not called clean, and `error` says so."""

    def fail(_):
        raise MemoryError

    with telemetry.open(observability) as opened:
        work()
        assert opened.flush()
        monkeypatch.setattr(Writer, "_has_committed", fail)
    monkeypatch.undo()

    assert "Traceback" not in capfd.readouterr().err
    assert opened.error == "MemoryError"
    assert recorded(observability) == (["work"], ["at work"])


@pytest.mark.parametrize("step", ["_stop_recording", "_stop_export", "_close_box", "_keep_uncommitted"])
def test_program_outlives_any_failure_of_closing(observability, monkeypatch, capfd, step):
    """Its own work is done by then: an error of ours must not become its exit code."""

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(telemetry.Telemetry, step, fail)
    with telemetry.open(observability, console="auto"):
        work()
    monkeypatch.undo()

    assert "telemetry could not be closed  reason=MemoryError" in capfd.readouterr().err
    assert telemetry.opened() is None
    assert recorded(observability) == (["work"], ["at work"])


def test_folder_that_became_read_only_ends_no_program(observability, monkeypatch):
    """The box stays then. It is that of a run that ended cleanly: nothing takes it for that of a killed one."""
    unlink = Path.unlink

    def unlinking(path, *, missing_ok=False):
        if path.suffix == ".box2":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        unlink(path, missing_ok=missing_ok)

    with telemetry.open(observability) as opened:
        work()
        monkeypatch.setattr(Path, "unlink", unlinking)
    monkeypatch.undo()

    (path,) = boxes_in(observability.data_dir)
    assert telemetry.opened() is None
    assert opened.error is None
    assert rows(observability.data_dir / DATABASE, "SELECT end_reason FROM runs") == [("clean",)]
    assert recorded(observability) == (["work"], ["at work"])
    assert not path.exists()


def test_failure_that_lasts_is_told_once(observability, monkeypatch):
    """Each try that fails told it anew: its records took the place of the program's, in the box and in the ring."""
    with telemetry.open(observability) as opened:
        assert opened.flush()

        def fail(_):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(StoreThread, "_prepare", fail)
        opened._thread.writer.must_reopen = True
        work()
        assert not opened.flush(0.5)
        assert opened.error == "[Errno 13] Permission denied"
        monkeypatch.undo()
        assert opened.flush()
    sql = "SELECT count(*), sum(repeats) FROM logs WHERE msg LIKE '%reopened%'"
    assert rows(observability.data_dir / DATABASE, sql) == [(2, 0)]  # that it cannot be, and that it was


def test_unknown_failure_that_lasts_is_told_once(observability, monkeypatch):
    """Nor its traceback, time and again; another failure is told."""
    with telemetry.open(observability) as opened:
        assert opened.flush()

        def fail(_):
            raise LookupError("new" if opened._thread.pacer.is_stopping else "odd")

        monkeypatch.setattr(StoreThread, "ensure_box", fail)
        for _ in range(3):
            work()
            opened.flush(0.1)
        monkeypatch.undo()
        assert opened.flush()
    path = observability.data_dir / DATABASE
    assert rows(path, "SELECT count(*) FROM logs WHERE msg LIKE 'unexpected error%'") == [(1,)]


def test_box_is_closed_as_ended_before_it_is_removed(observability, monkeypatch):
    """A kill between the two leaves a box that says how the run ended."""
    ended, close = [], BlackBox.close

    def closing(box, *, remove):
        ended.append(box.contents().ended_us)
        close(box, remove=remove)

    monkeypatch.setattr(BlackBox, "close", closing)
    with telemetry.open(observability):
        work()

    assert ended[0] > 0
