"""Children of a process that records: forked by hand, or started by multiprocessing in each of its ways."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing

import pytest
from support import forkserver
from support.reading import log_lines, rows

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability import telemetry, trace
from hearthnet.observability.records.blackbox import BlackBox

# What each program begins with; `SETTINGS` is filled in.
HEAD = """
import os, sqlite3, sys, threading, multiprocessing
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace

log = get_logger("app")
settings = ObservabilityConfig(data_dir=Path(DATA), log_dir=Path(LOGS), flush_interval_s=0.1)

def record(count, name):
    for _ in range(count):
        with trace.new_trace(name):
            pass

def forked(work, end=sys.exit):
    child = os.fork()
    if child == 0:
        work()
        end(0)
    return child

def wait_for(*children):
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture
def run(observability, tmp_path):
    """Runs a program that begins with `HEAD`; with arguments as a file of its own, which its children import."""

    def run_program(text, *arguments):
        head = HEAD.replace("DATA", repr(str(observability.data_dir))).replace("LOGS", repr(str(observability.log_dir)))
        if not arguments:
            return forkserver.run([sys.executable, "-c", head + text], check=True)
        path = tmp_path / "program.py"
        path.write_text(head + text)
        done = forkserver.run([sys.executable, str(path), *arguments])
        assert done.returncode == 0, done.stderr
        return done

    return run_program


@pytest.fixture
def sql(observability):
    """Reads the store, as `sqlite3` would."""
    return lambda query, *values: rows(observability.data_dir / telemetry.DATABASE, query, *values)


def of_each(sql, name):
    """How many traces, how many different ones, and of how many runs."""
    ((count, different, runs),) = sql(
        "SELECT count(*), count(DISTINCT run_id || number), count(DISTINCT run_id) FROM traces WHERE capability = ?",
        name,
    )
    return count, different, runs


def boxes(observability):
    """The boxes that are left."""
    return sorted(path.name for path in observability.data_dir.glob("*.box*"))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_of_multiprocessing_record_from_their_first_record_on(run, sql, observability, method):
    """Whatever the start method, each is a run of its own with its parent's settings, and ends in order."""
    run(
        """
def work(number):
    log.error("working", extra={"number": number})
    record(20, "in.child")

if __name__ == "__main__":
    with telemetry.open(settings):
        record(1, "in.parent")
        context = multiprocessing.get_context(sys.argv[1])
        started = [context.Process(target=work, args=(number,)) for number in range(2)]
        for process in started:
            process.start()
        for process in started:
            process.join()
""",
        method,
    )

    assert of_each(sql, "in.child") == (40, 40, 2)
    assert sorted(sql("SELECT extras ->> 'number' FROM logs WHERE msg = 'working'")) == [(0,), (1,)]
    assert sql("SELECT end_reason, count(*) FROM runs GROUP BY 1") == [("clean", 3)]
    assert boxes(observability) == []


def test_pool_of_eight_records_and_ends_in_order(run, sql, observability):
    """The workers of a pool that is closed commit all that they recorded, each record once."""
    run(
        """
def work(number):
    record(25, "in.pool")
    return number

if __name__ == "__main__":
    with telemetry.open(settings), multiprocessing.get_context(sys.argv[1]).Pool(8) as pool:
        assert pool.map(work, range(16), 1) == list(range(16))
        pool.close()
        pool.join()
""",
        "fork",
    )

    assert of_each(sql, "in.pool")[:2] == (400, 400)
    assert {reason for (reason,) in sql("SELECT end_reason FROM runs")} == {"clean"}
    assert boxes(observability) == []


def test_pool_that_is_terminated_loses_nothing(run, sql, observability):
    """At the end of a `with` a pool kills its workers: what they recorded is there after the next start."""
    run(
        """
def work(number):
    record(25, "in.pool")

if __name__ == "__main__":
    with telemetry.open(settings), multiprocessing.get_context(sys.argv[1]).Pool(4) as pool:
        pool.map(work, range(8), 1)
""",
        "fork",
    )
    with telemetry.open(observability):
        pass

    assert of_each(sql, "in.pool")[:2] == (200, 200)
    assert sql("SELECT count(*) FROM gaps") == [(0,)]


def test_spawned_process_has_its_parents_secrets(run, observability):
    """What a parent has registered as secret is redacted in the processes that it starts, too."""
    run(
        """
from hearthnet.observability.redaction import rules

def work():
    log.error("the answer is hV7k2Lm9Qx4Tz81w")

if __name__ == "__main__":
    rules.register_secrets(["hV7k2Lm9Qx4Tz81w"])
    with telemetry.open(settings):
        process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
        process.start()
        process.join()
""",
        "spawn",
    )

    assert [line["msg"] for line in log_lines(observability.log_dir) if "answer" in line["msg"]] == [
        "the answer is [redacted]"
    ]


def test_process_that_is_spawned_after_the_end_records_nothing(run, sql):
    """Once telemetry is closed, no child opens it; neither does a program that merely runs as a subprocess."""
    run(
        """
import subprocess

def work(name):
    record(1, name)

if __name__ == "__main__":
    with telemetry.open(settings):
        program = "from hearthnet.observability import trace\\nwith trace.new_trace('not.ours'): pass"
        subprocess.run([sys.executable, "-c", program], check=True)
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=("too.late",))
    process.start()
    process.join()
    assert process.exitcode == 0
""",
        "spawn",
    )

    assert sql("SELECT count(*) FROM traces") == [(0,)]


def test_child_of_a_child_that_records_nothing_records(run, sql, observability):
    """A program that forks twice, as daemons do, records in the last of its processes."""
    run("""
with telemetry.open(settings):
    record(1, "in.parent")
    wait_for(forked(lambda: wait_for(forked(lambda: record(5, "in.grandchild"))), os._exit))
""")

    assert of_each(sql, "in.grandchild") == (5, 5, 1)
    assert sql("SELECT end_reason FROM runs") == [("clean",)] * 2


def test_parent_and_child_may_write_and_close_in_any_order(run, sql):
    """The child inserts, its parent closes, the child inserts again: all rows are there."""
    run("""
reading, writing = os.pipe()
with telemetry.open(settings) as t:
    record(1, "in.parent")
    t.flush()
    child = os.fork()
    if child == 0:
        record(1, "in.child")
        assert telemetry.opened().flush()
        os.read(reading, 1)
        record(1, "in.child")
        assert telemetry.opened().flush()
        sys.exit(0)
    record(1, "in.parent")
os.write(writing, b"x")
wait_for(child)
""")

    assert sql("SELECT capability, count(*) FROM traces GROUP BY 1") == [("in.child", 2), ("in.parent", 2)]


def test_error_of_a_child_that_leaves_at_once_is_recovered(run, sql, observability):
    """A child that ends by `os._exit` closes nothing: its box has what it recorded, whoever opens the store next."""
    run("""
with telemetry.open(settings):
    wait_for(forked(lambda: log.error("in trouble"), os._exit))
""")
    with telemetry.open(observability):
        pass

    assert sql("SELECT msg FROM logs WHERE msg = 'in trouble'") == [("in trouble",)]
    assert boxes(observability) == []


def test_forks_at_any_moment_lose_nothing(run, sql):
    """Dozens of forks from a thread while traces are committed and read: no row is lost, none is there twice."""
    done = run("""
stop = threading.Event()

def load():
    while not stop.wait(0.02):
        record(3, "in.parent")
        trace.get_recent(20)
        made.append(3)

made = []
with telemetry.open(settings) as t:
    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    def fork():
        for number in range(40):
            child = os.fork()
            if child == 0:
                if number % 10 == 0:
                    record(3, "in.child")
                    telemetry.opened().close()
                os._exit(0)
            wait_for(child)
            log.warning("forked", extra={"number": number})  # begins a commit
    forking = threading.Thread(target=fork)
    forking.start()
    forking.join()
    stop.set()
    for thread in threads:
        thread.join()
    assert t.flush()
print(sum(made))
""")

    assert of_each(sql, "in.child") == (12, 12, 4)
    assert of_each(sql, "in.parent") == (int(done.stdout), int(done.stdout), 1)


def test_store_that_is_opened_again_has_no_record_twice(observability, sql, monkeypatch):
    """What threads record while the store is opened again, for a file that was removed, is committed once."""
    contents = BlackBox.contents

    def contents_meanwhile(box):
        for _ in range(50):
            with trace.new_trace("a.b"):
                pass
        return contents(box)

    monkeypatch.setattr(BlackBox, "contents", contents_meanwhile)
    with telemetry.open(observability.model_copy(update={"flush_interval_s": 60})) as t:
        for number in range(2_510):
            if number == 10:
                assert t.flush()
                for path in observability.data_dir.glob("telemetry.db*"):
                    path.unlink()
            with trace.new_trace("a.b"):
                pass
        assert t.flush(30)

    count, different, _ = of_each(sql, "a.b")
    ((overwritten,),) = sql("SELECT ifnull(sum(count), 0) FROM gaps WHERE reason = 'wal_lost'")  # in the small box
    assert count == different == 2_560 - overwritten


def test_child_may_open_telemetry_itself(run, sql):
    """A child that has recorded already, and then opens telemetry as its own program says, records on."""
    run("""
def work():
    record(1, "in.child")
    with telemetry.open(settings):
        record(1, "in.child")

with telemetry.open(settings):
    wait_for(forked(work))
""")

    assert of_each(sql, "in.child") == (2, 2, 2)


def test_child_that_could_not_take_locks_keeps_to_its_box(run, sql, observability):
    """A connection that nobody closes before the fork: the child leaves the database alone, and says why."""
    with closing(open_database(observability.data_dir / telemetry.DATABASE, TELEMETRY)):
        pass
    run("""
from hearthnet.database import connect_read_only

def work():
    record(2, "in.child")
    assert "open when" in telemetry.opened().error

with telemetry.open(settings):
    held = connect_read_only(settings.data_dir / "telemetry.db")
    held.execute("SELECT 1").fetchall()
    wait_for(forked(work))
""")
    with telemetry.open(observability):
        pass

    assert of_each(sql, "in.child") == (2, 2, 1)


def test_fork_in_the_middle_of_a_query(run):
    """As by a signal handler: the fork cannot wait for the thread that forks; the child keeps to its box."""
    done = run("""
with telemetry.open(settings) as t:
    record(3, "before")
    assert t.flush()
    reader, connected = t._reader, t._reader._connected

    def forking():
        reader._connected = connected
        found = connected()
        wait_for(forked(lambda: print(telemetry.opened(), t._is_safe_to_fork, flush=True), os._exit))
        return found

    assert len(trace.get_recent(9)) == 3
    reader._connected = forking
    assert len(trace.get_recent(9)) == 3
    wait_for(forked(lambda: print(t._is_safe_to_fork, flush=True), os._exit))
""")

    assert done.stdout.split() == ["None", "False", "True"]


AT_FORK = """
import os
threads = []
# What is registered first is called last before a fork: after the hook that is tested.
os.register_at_fork(before=lambda: threads.append(len(os.listdir("/proc/self/task"))))
"""


def test_process_has_one_thread_when_it_forks(observability):
    """Else Python 3.12 warns that the child may hang: both threads of the store end before, and others go on after."""
    program = AT_FORK + HEAD.replace("DATA", repr(str(observability.data_dir))).replace(
        "LOGS", repr(str(observability.log_dir))
    )
    program += """
with telemetry.open(settings, console="off") as t:
    for number in range(5):
        record(1, "before.fork")
        wait_for(forked(lambda: record(1, "in.child")))
        assert number % 2 or t.flush()
    record(1, "after.all")
    assert t.flush() and t.error is None
print(threads)
"""
    # The first releases of 3.13 count after the hooks: https://github.com/python/cpython/issues/137109
    warned = "ignore::DeprecationWarning" if sys.version_info >= (3, 13) else "default"
    done = subprocess.run([sys.executable, "-W", warned, "-c", program], capture_output=True, text=True, timeout=60)

    assert (done.stderr, done.stdout, done.returncode) == ("", "[1, 1, 1, 1, 1]\n", 0)
    found = rows(observability.data_dir / telemetry.DATABASE, "SELECT capability, count(*) FROM traces GROUP BY 1")
    assert found == [("after.all", 1), ("before.fork", 5), ("in.child", 5)]


def test_forks_one_after_the_other_do_not_wait_for_the_gap_between_commits(run, sql):
    """With `eco` that is five seconds: the fork gave up after two, and the child kept to its box."""
    done = run("""
eco = settings.model_copy(update={"eco": True})
with telemetry.open(eco) as t:
    for _ in range(4):
        record(1, "before.fork")
        wait_for(forked(lambda: print(t._is_safe_to_fork, flush=True), os._exit))
""")

    assert done.stdout.split() == ["True"] * 4
    assert sql("SELECT count(*) FROM traces WHERE capability = 'before.fork'") == [(4,)]


def test_thread_that_ends_too_late_for_a_fork_goes_on(observability, sql):
    """The fork has not waited for it: whether it notices before or after, the same store is written."""
    with telemetry.open(observability) as t:
        for number in range(20):
            assert not t._thread.pause(0)
            with trace.new_trace("late"):
                pass
            if number % 2:
                t._thread._thread.join(10)
            t._thread.resume()
            assert number % 3 or t.flush()
        assert t.flush()
        assert threads_of_the_store() == 1

    assert sql("SELECT count(*) FROM traces WHERE capability = 'late'") == [(20,)]
    assert sql("SELECT end_reason FROM runs") == [("clean",)]


def threads_of_the_store():
    """How many there are in this process."""
    return sum(one.name == "hearthnet-telemetry" for one in threading.enumerate())


@pytest.mark.parametrize("act", ["flush", "close"])
def test_other_thread_waits_for_the_end_of_a_fork(observability, sql, act):
    """What it asks for is done afterwards: the thread that would do it has ended, and another has not begun."""
    done = []
    t = telemetry.open(observability)
    t.start()
    with trace.new_trace("before"):
        pass
    assert t._thread.pause(10)
    assert threads_of_the_store() == 0
    with trace.new_trace("meanwhile"):
        pass
    asking = threading.Thread(target=lambda: done.append(getattr(t, act)()))
    asking.start()
    asking.join(0.1)
    assert done == []
    t._thread.resume()
    asking.join(10)
    t.close()

    assert done == [True if act == "flush" else None]
    assert sql("SELECT capability FROM traces ORDER BY seq") == [("before",), ("meanwhile",)]
    assert sql("SELECT end_reason FROM runs") == [("clean",)]


def test_process_that_gets_no_thread_after_a_fork_keeps_to_its_box(observability, sql, monkeypatch):
    """It says why, goes on, and the next one that opens the store has its records."""

    def start(self):
        raise RuntimeError("can't start new thread")

    with telemetry.open(observability) as t:
        assert t._thread.pause(10)
        with monkeypatch.context() as without_threads:
            without_threads.setattr(threading.Thread, "start", start)
            t._thread.resume()
        with trace.new_trace("after"):
            pass
        assert t.error == "can't start new thread"
        assert not t.flush(0.1)
    with telemetry.open(observability):
        pass

    assert sql("SELECT capability FROM traces") == [("after",)]
