"""Runs that cannot commit, several times over, and then one that can: all that they recorded is there, or counted."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.reading import log_lines, rows
from support.waiting import wait_until

from hearthnet.config import ObservabilityConfig
from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.records import blackbox
from hearthnet.observability.store import thread, writer
from hearthnet.observability.store.recovery import opening

RUNS = 3
TRACES = 20
log = get_logger("app")


def record(count, name):
    """Records traces of half a kilobyte."""
    for _ in range(count):
        with trace.new_trace(name) as made:
            made.extras["text"] = "x" * 500


@contextmanager
def renamed_column(path):
    """Another program, or a person, has changed the schema."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA legacy_alter_table = ON")  # leaves views alone
        db.execute("ALTER TABLE traces RENAME COLUMN number TO count")
        yield
        db.execute("ALTER TABLE traces RENAME COLUMN count TO number")


@contextmanager
def locked(path):
    """Another process holds the lock for long."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@contextmanager
def read_only(path):
    """The database belongs to somebody else, who lets us read it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    for name in (path.parent, path.parent.parent / "logs"):
        os.chown(name, 65_534, 65_534)
    for name in path.parent.iterdir():
        os.chown(name, 65_534, 65_534)
    os.chown(path, 0, 0)
    path.chmod(0o444)
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)
        path.chmod(0o600)


@contextmanager
def full(path):
    """There is no page left: rows can only replace others."""
    pragmas = thread.Budget.pages
    thread.Budget.pages = property(lambda _: 1)  # SQLite takes the present size for less
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE ballast (content)")
        ((free, size),) = db.execute("SELECT * FROM pragma_freelist_count, pragma_page_size").fetchall()
        db.execute("INSERT INTO ballast VALUES (zeroblob(?))", (free * size,))
        try:
            yield
        finally:
            thread.Budget.pages = pragmas
            db.execute("DROP TABLE ballast")


@pytest.fixture
def observability():
    """Settings of a store in a folder that others may reach, too."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield ObservabilityConfig(data_dir=Path(folder, "data"), log_dir=Path(folder, "logs"), flush_interval_s=0.05)


@pytest.mark.parametrize("trouble", [renamed_column, locked, read_only, full])
def test_runs_that_cannot_commit_wait_for_one_that_can(observability, monkeypatch, trouble):
    """Three runs in a row leave boxes; the next run has their records in SQL, or says in `gaps` what it has not."""
    for place, name in ((opening, "PATIENT_S"), (writer, "PATIENT_S"), (thread, "_END_S")):
        monkeypatch.setattr(place, name, 0.3)
    path = observability.data_dir / telemetry.DATABASE
    with telemetry.open(observability):
        record(300, "old")  # what gives way where there is no space
    run_ids = []
    with trouble(path):
        for number in range(RUNS):
            with telemetry.open(observability) as t:
                run_ids.append(t.run_id)
                record(TRACES, f"run.n{number}")
                log.error("in trouble", extra={"number": number})
    with telemetry.open(observability) as t:
        assert t.error is None

    found = dict(rows(path, "SELECT capability, count(DISTINCT run_id || number) FROM traces GROUP BY 1"))
    lost = dict(rows(path, "SELECT run_id, sum(count) FROM gaps WHERE kind = 'trace' GROUP BY 1"))
    for number, run_id in enumerate(run_ids):
        assert found.get(f"run.n{number}", 0) + lost.get(run_id, 0) == TRACES
    assert lost == {}
    assert rows(path, "SELECT count(*) - count(DISTINCT run_id || number) FROM traces") == [(0,)]
    assert rows(path, "SELECT extras ->> 'number' FROM logs WHERE msg = 'in trouble' ORDER BY seq") == [
        (0,),
        (1,),
        (2,),
    ]
    assert rows(path, "SELECT end_reason, count(*) FROM runs GROUP BY 1") == [("clean", RUNS + 2)]
    assert not list(observability.data_dir.glob("*.box*"))


def test_run_whose_database_was_moved_aside_since_its_last_commit(observability):
    """A sibling has moved it aside and read it: what this run has committed since is in its box, for the next one."""
    with telemetry.open(observability) as t:
        record(20, "before")
        assert t.flush()
        for ending in ("", "-wal", "-shm"):
            path = observability.data_dir / f"{telemetry.DATABASE}{ending}"
            path.rename(path.with_name(f"aside{ending}"))
    with telemetry.open(observability):
        pass

    path = observability.data_dir / telemetry.DATABASE
    assert rows(path, "SELECT count(*) FROM traces WHERE capability = 'before'") == [(20,)]
    assert rows(path, "SELECT end_reason, count(*) FROM runs GROUP BY 1") == [("clean", 2)]
    assert rows(path, "SELECT count(*) FROM gaps") == [(0,)]


def test_box_that_cannot_be_made_is_told_once(observability, monkeypatch):
    """The warning is a record that is committed at once, with a new try to make the box: that must not warn again."""
    tries = []

    def refuse(*_):
        tries.append(1)
        raise OSError("no space left on device")

    monkeypatch.setattr(blackbox, "make", refuse)

    def is_tried_again(before):
        record(1, "without.box")  # each time: a round that has already tried may commit the one before
        return len(tries) > before

    with telemetry.open(observability) as t:
        for _ in range(3):
            before = len(tries)
            wait_until(lambda before=before: is_tried_again(before))
            assert t.flush()

    messages = [line["msg"] for line in log_lines(observability.log_dir)]
    assert messages.count("there is no black box: a kill would cost pending records") == 1


def test_run_without_a_box_says_in_one_that_it_has_ended(observability, monkeypatch):
    """All of it is committed but its end, for another process holds the lock: nothing else would show that it ended."""
    monkeypatch.setattr(thread, "_END_S", 0.1)
    monkeypatch.setattr(thread.StoreThread, "ensure_box", lambda _: None)
    t = telemetry.open(observability)
    t.start()
    record(1, "without.box")
    assert t.flush()
    with locked(observability.data_dir / telemetry.DATABASE):
        t.close()
    with telemetry.open(observability):
        pass

    path = observability.data_dir / telemetry.DATABASE
    assert rows(path, "SELECT end_reason, count(*) FROM runs GROUP BY 1") == [("clean", 2)]


def test_opening_that_comes_after_the_close_does_not_open_the_run_again(observability, monkeypatch):
    """A busy machine: the store opens when the program has left its box to others, and they have closed the run."""
    with telemetry.open(observability):
        record(1, "before")
    go_on = threading.Event()

    async def connect_late(self, connect=writer.Writer.connect):
        await asyncio.to_thread(go_on.wait)
        await connect(self)

    def end(*_):
        raise sqlite3.OperationalError("the process has gone")

    monkeypatch.setattr(writer.Writer, "connect", connect_late)
    monkeypatch.setattr(writer.Writer, "close", end)
    monkeypatch.setattr(telemetry, "_OPEN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(telemetry, "_CLOSE_TIMEOUT_S", 0.05)
    path = observability.data_dir / telemetry.DATABASE
    with telemetry.open(observability) as t:
        record(1, "late")
    with closing(open_database(path, TELEMETRY)) as connection:
        opening.keep_house(connection, path.parent, "another", None)
    go_on.set()
    t._thread._thread.join()

    assert rows(path, "SELECT capability FROM traces ORDER BY seq") == [("before",), ("late",)]
    assert rows(path, "SELECT end_reason, count(*) FROM runs GROUP BY 1") == [("clean", 2)]


def test_program_that_gets_no_thread_records_for_the_next_one(observability, monkeypatch):
    """As at the exit of Python 3.12, or with too many threads: nothing is raised, the reason is told, nothing lost."""

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", start)
        with telemetry.open(observability) as opened:
            record(2, "without.thread")
            log.warning("without a thread")
            assert opened.error == "no thread can be started: can't start new thread"
            assert not opened.flush(0.1)
            assert [found.capability for found in trace.get_recent()] == ["without.thread"] * 2
    with telemetry.open(observability):
        pass

    database = observability.data_dir / telemetry.DATABASE
    assert rows(database, "SELECT capability FROM traces") == [("without.thread",)] * 2
    assert rows(database, "SELECT count(*) FROM logs WHERE msg = 'without a thread'") == [(1,)]
    told = [line for line in log_lines(observability.log_dir) if "black box only" in line["msg"]]
    assert [line["reason"] for line in told] == [opened.error]
    assert not list(observability.data_dir.glob("*.box*"))


AT_EXIT = """
import atexit, os, sys

def last():
    telemetry.keep_open(sys.argv[1], console="off")
    if sys.argv[2] == "open":
        log.error("at the end")

atexit.register(last)
from hearthnet import get_logger, telemetry
log = get_logger("app")
if sys.argv[2] == "child":
    telemetry.keep_open(sys.argv[1], console="off")
    if os.fork() == 0:
        atexit.register(log.error, "at the end")
    else:
        os.wait()
"""


@pytest.mark.parametrize("how", ["open", "child"])
def test_first_record_while_the_interpreter_ends(tmp_path, how):
    """Of a program, or a forked child: Python 3.12 refuses any thread then; the record is in the store all the same."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", AT_EXIT, str(tmp_path), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    with telemetry.open(tmp_path, console="off"):
        pass

    assert (done.returncode, done.stderr) == (0, "")
    assert rows(tmp_path / telemetry.DATABASE, "SELECT count(*) FROM logs WHERE msg = 'at the end'") == [(1,)]
