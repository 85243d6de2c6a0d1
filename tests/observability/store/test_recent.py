"""`get_recent` of a process that has no store open: what is in SQL, and what is in its memory."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest
from support import forkserver

from hearthnet.config_file import standard_paths
from hearthnet.constants import DATABASE
from hearthnet.errors import StoreError
from hearthnet.observability import telemetry, trace
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.reader import Reader

ASK = """
from hearthnet.observability import trace
print(*[item.capability for item in trace.get_recent()])
"""
STORE = """
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
with telemetry.open(), trace.new_trace("stored"):
    pass
"""


def record(*capabilities):
    """Records a trace of each."""
    for capability in capabilities:
        trace.new_trace(capability)
        trace.detach()


def recent(n=100):
    """The capabilities of the newest traces."""
    return [item.capability for item in trace.get_recent(n)]


def ask(program=ASK, **environment):
    """What another program prints, which only asks; it warns of nothing."""
    done = forkserver.run([sys.executable, "-c", program], env=os.environ | environment, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def warned(logged):
    """The warnings that were logged, as the folder and the reason of each."""

    def read():
        found = [record for record in logged if record.msg == "telemetry.db cannot be read"]
        return [(record.__dict__["in"], record.reason) for record in found]

    return read


def test_after_closing_the_store_is_still_read(observability):
    """What was committed, and what this process has recorded since, each once and newest first."""
    with telemetry.open(observability):
        record("a.b", "c.d")
    record("e.f")

    assert recent() == ["e.f", "c.d", "a.b"]
    assert recent(2) == ["e.f", "c.d"]


def test_spans_and_extras_come_from_sql(observability):
    """A trace read back is whole."""
    with telemetry.open(observability), trace.new_trace("llm.chat@1.2") as started, trace.span("step", size=3):
        started.extras["tokens"] = 7

    (found,) = trace.get_recent()
    assert (found.trace_id, found.version, found.extras) == (started.trace_id, "1.2", {"tokens": 7})
    assert [(item.name, item.extras) for item in found.spans] == [("step", {"size": 3})]


def test_program_that_never_opened_reads_the_standard_store():
    """Both the holder's records and its own, while that one runs and after; importing brings no database."""
    program = """
import sys
from hearthnet.observability import trace
before = "sqlite3" in sys.modules
with trace.new_trace("own.work"):
    pass
print(before, *[item.capability for item in trace.get_recent()])
"""
    with telemetry.open() as holder:
        record("of.the.node")
        assert holder.flush()
        assert ask() == "of.the.node"
    assert ask() == "of.the.node"
    assert ask(program, PYTHONHASHSEED="1") == "False own.work of.the.node"  # in an interpreter of its own


@pytest.mark.parametrize("way", ["XDG_DATA_HOME", "config.toml"])
def test_standard_store_is_where_the_commands_look(tmp_path, home, way):
    """The folder follows the environment, and the user's config.toml."""
    environment = {}
    if way == "config.toml":
        folder = tmp_path / "elsewhere"
        (home / ".config" / "hearthnet").mkdir(parents=True)
        (home / ".config" / "hearthnet" / "config.toml").write_text(f'[observability]\ndata_dir = "{folder}"\n')
    else:
        environment = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
        folder = tmp_path / "xdg" / "hearthnet"
    ask(STORE, **environment)
    ask(STORE.replace("open()", "open(ObservabilityConfig())"), **environment)

    assert (folder / DATABASE).is_file()
    assert ask(**environment) == "stored stored"


def test_forked_child_reads_its_parents_store(observability):
    """The child has no telemetry open, but knows where its parent's records are."""
    with telemetry.open(observability) as opened:
        record("of.the.parent")
        assert opened.flush()
        pid = os.fork()
        if pid == 0:
            record("of.the.child")
            os._exit(0 if recent() == ["of.the.child", "of.the.parent"] else 1)

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert recent() == ["of.the.parent"]


def test_trace_in_memory_and_in_sql_is_returned_once(observability):
    """A record that another process has committed meanwhile, out of this one's box, is still in memory here."""
    with telemetry.open(observability):
        record("a.b", "c.d")
    for committed in reversed(Reader(observability.data_dir / DATABASE).recent(10)):
        runtime.recorder.traces.offer(committed)
    record("e.f")

    assert recent() == ["e.f", "c.d", "a.b"]


def test_traces_of_several_runs_are_in_the_order_of_their_ends():
    """What a sibling commits later is newer than what this process has in memory."""
    record("own.first")
    ask(STORE)
    record("own.last")

    assert recent() == ["own.last", "stored", "own.first"]
    assert recent(2) == ["own.last", "stored"]


def test_without_a_database_memory_is_returned_and_nothing_said(warned):
    """On a machine where nobody has opened a store, there is nothing to warn of."""
    record("a.b")

    assert recent() == ["a.b"]
    assert warned() == []
    assert not standard_paths().data_dir.exists()


@pytest.mark.parametrize("content", [b"no database", b"", b"SQLite format 3\0" + bytes(5_000)])
def test_unreadable_database_is_warned_of_once(warned, content):
    """A file that is no store gives what memory has; the warning comes once, and again after it could be read."""
    data_dir = standard_paths().data_dir
    data_dir.mkdir(parents=True)
    (data_dir / DATABASE).write_bytes(content)
    record("a.b")
    assert [recent() for _ in range(3)] == [["a.b"]] * 3
    ((place, reason),) = warned()
    assert place == str(data_dir)
    assert "cannot be read" in reason

    (data_dir / DATABASE).unlink()
    ask(STORE)
    assert recent() == ["stored", "a.b"]
    (data_dir / DATABASE).write_bytes(content)
    assert [recent() for _ in range(3)] == [["a.b"]] * 3
    assert len(warned()) == 2


def test_settings_that_cannot_be_read_leave_memory(warned, home):
    """Where the standard store is, the user's config.toml says; if that is broken, the warning says so."""
    (home / ".config" / "hearthnet").mkdir(parents=True)
    (home / ".config" / "hearthnet" / "config.toml").write_text("[observability\n")
    record("a.b")

    assert [recent() for _ in range(2)] == [["a.b"]] * 2
    ((place, reason),) = warned()
    assert (place, "config.toml" in reason) == ("the standard folder", True)


def test_database_that_goes_while_it_is_open_is_warned_of_once(observability, warned):
    """The process that has the store open says so once as well, however often it is asked."""
    with telemetry.open(observability) as opened:
        record("a.b")
        assert opened.flush()
        (observability.data_dir / DATABASE).rename(observability.data_dir / "moved")
        (observability.data_dir / DATABASE).write_bytes(b"no database")
        for _ in range(3):
            opened.find(10, telemetry.ANY)

    assert [place for place, _ in warned()] == [str(observability.data_dir)]


def test_another_database_at_the_path_is_not_opened_beside_the_writer(observability):
    """It would cut the -shm that is mapped for the writer, and the kernel would end the process."""
    path = observability.data_dir / DATABASE
    with telemetry.open(observability) as opened:
        record("a.b")
        assert opened.flush()
        path.rename(observability.data_dir / "moved")
        shutil.copy(observability.data_dir / "moved", path)
        mapped = (observability.data_dir / f"{DATABASE}-shm").stat()

        with pytest.raises(StoreError, match="was replaced while this process writes it"):
            Reader(path).recent(1)
        after = (observability.data_dir / f"{DATABASE}-shm").stat()
        assert (mapped.st_ino, mapped.st_mtime_ns, mapped.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size)
        assert [item.capability for item in opened.find(10, telemetry.ANY)] == []

        record("c.d")
        assert opened.flush()  # finds the other file, and opens it
        assert [item.capability for item in Reader(path).recent(1)] == ["c.d"]
    Reader(path).recent(1)  # nothing writes it


def test_database_that_goes_between_two_looks_raises_nothing_but_our_error(observability, monkeypatch):
    """Another thread moves it aside after a reader has seen it: SQLite finds no file, and says so."""
    with telemetry.open(observability):
        record("a.b")
    path = observability.data_dir / DATABASE
    seen = path.stat()
    path.rename(observability.data_dir / "moved")
    monkeypatch.setattr(type(path), "stat", lambda *_, **__: seen)

    with pytest.raises(StoreError, match="cannot be read"):
        Reader(path).recent(1)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
def test_database_whose_folder_may_not_be_entered(observability, monkeypatch, warned, number):
    """The traces in memory are returned, with one warning, also by a store that is open."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with telemetry.open(observability) as opened:
        record("stored")
        assert opened.flush()
        monkeypatch.setattr(Path, "stat", refuse)
        record("in memory")
        found = recent(), recent()
        monkeypatch.undo()

    assert ["in memory" in one for one in found] == [True, True]
    assert [os.strerror(number) in reason for _, reason in warned()] == [True]


@pytest.mark.parametrize("wrong", [5, None, b"id", object()])
def test_id_that_a_program_has_set(observability, wrong):
    """Costs no other trace."""
    with telemetry.open(observability):
        record("good")
        with trace.trace("odd") as odd:
            odd.trace_id = wrong
        assert "good" in recent()
