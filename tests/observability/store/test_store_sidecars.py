"""Database, WAL, -shm and box that are removed, cut, replaced or overwritten under a run: noticed, mended, counted."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial

import pytest
from support import forkserver
from support.longer import few
from support.reading import log_lines, rows
from support.waiting import wait_until

from hearthnet.forensics import box as layout
from hearthnet.observability import telemetry, trace
from hearthnet.observability.store import pacer
from hearthnet.observability.store.recovery.box_budget import compact
from hearthnet.observability.store.recovery.quarantine import quarantined, salvage
from hearthnet.observability.store.recovery.recover import leftover_boxes
from hearthnet.observability.telemetry import DATABASE

NODE = "ed25519:me"
OLD, BEFORE, AFTER = 30, 20, 20  # traces of the run before, and of this one before and after the fault
# From another process: to open and close a file of SQLite in this one would drop the locks that it has on it.
ZEROS = "dd if=/dev/zero of={path}{end} bs=4096 count=30 conv=notrunc status=none"


def record(count, capability="a.b"):
    """Records `count` traces."""
    for _ in range(count):
        with trace.new_trace(capability):
            pass


def copy_over(path) -> None:
    """Replaces a file by a copy of itself."""
    shutil.copy(path, path.with_name("copied"))
    path.with_name("copied").replace(path)


def shell(command, path) -> None:
    """Runs a shell command."""
    subprocess.run(command.format(path=path, end="-wal"), shell=True, check=True)


@pytest.fixture
def path(observability):
    """The database."""
    return observability.data_dir / DATABASE


@pytest.fixture
def query(path):
    """Runs a query as another process would."""
    return partial(rows, path)


def beside(path, ending):
    """The path of a sidecar."""
    return path.with_name(path.name + ending)


@pytest.fixture
def opened(observability, path):
    """The telemetry of a node with records of this run and of the one before."""
    with telemetry.open(observability, node_id=NODE):
        record(OLD, "old.one")
    with telemetry.open(observability, node_id=NODE) as t:
        record(BEFORE)
        assert t.flush()
        yield t


def reopened(observability) -> None:
    """The node's next start and stop."""
    with telemetry.open(observability, node_id=NODE):
        pass


def stored(query) -> tuple[int, int]:
    """How many traces there are of the run with the fault, and of the one before."""
    ((own, old),) = query(
        "SELECT ifnull(sum(capability = 'a.b'), 0), ifnull(sum(capability = 'old.one'), 0) FROM traces"
    )
    return own, old


FAULTS = {
    "-shm removed": lambda path: beside(path, "-shm").unlink(),
    "-shm replaced": lambda path: copy_over(beside(path, "-shm")),
    "-shm cut to nothing": lambda path: os.truncate(beside(path, "-shm"), 0),
    "-shm cut": lambda path: os.truncate(beside(path, "-shm"), 8_192),
    "WAL removed": lambda path: beside(path, "-wal").unlink(),
    "WAL replaced": lambda path: copy_over(beside(path, "-wal")),
    "WAL cut to nothing": lambda path: os.truncate(beside(path, "-wal"), 0),
    "WAL cut to its first frame": lambda path: os.truncate(beside(path, "-wal"), 4_152),
    "WAL cut in the middle of a frame": lambda path: os.truncate(beside(path, "-wal"), 30_000),
    "both removed": lambda path: [beside(path, ending).unlink() for ending in ("-wal", "-shm")],
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_fault_of_a_sidecar_costs_nothing(observability, opened, path, query, fault):
    """It is noticed before the next commit, and the store opened anew in the same run, with the records of the box."""
    fault(path)
    record(AFTER)
    assert opened.flush(60), opened.error

    assert stored(query) == (BEFORE + AFTER, OLD)
    assert len(trace.get_recent(1_000)) == BEFORE + AFTER + OLD
    opened.close()
    assert layout.boxes_in(path.parent) == []
    reopened(observability)
    assert stored(query) == (BEFORE + AFTER, OLD)
    assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]
    assert query("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("size", [0, 8_192, 100_000], ids=["to nothing", "to two pages", "to a few pages"])
def test_database_that_is_cut_costs_other_runs_alone(observability, opened, path, query, size):
    """This run's records come back from its box, the others' are counted as lost."""
    os.truncate(path, size)
    record(AFTER)
    assert opened.flush(60), opened.error
    opened.close()

    own, old = stored(query)
    assert own == BEFORE + AFTER
    assert query("SELECT ifnull(sum(count), 0) FROM gaps WHERE reason = 'wal_lost'") == [(OLD - old,)]


def test_idle_node_notices(observability, opened, path, query, monkeypatch):
    """Without a record to commit the files are checked once a minute."""
    monkeypatch.setattr(pacer, "_HOUSEKEEPING_S", 0.05)
    beside(path, "-shm").unlink()
    opened._thread.pacer.wake(at_once=True, skip_gap=True)
    wait_until(lambda: "telemetry.db was reopened" in [line["msg"] for line in log_lines(observability.log_dir)])

    assert stored(query) == (BEFORE, OLD)


@pytest.mark.parametrize("fault", ["WAL cut to nothing", "WAL removed", "-shm removed", "WAL cut to its first frame"])
def test_clean_stop_after_a_fault_keeps_the_box(observability, opened, path, query, fault):
    """A stop that comes first does not remove the box unless the database has what the box has."""
    FAULTS[fault](path)
    opened.close()
    assert len(layout.boxes_in(path.parent)) == 1
    reopened(observability)

    assert stored(query) == (BEFORE, OLD)
    assert layout.boxes_in(path.parent) == []
    assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]


def test_box_that_was_kept_may_be_made_smaller(observability, opened, path, query):
    """To save space another process drops frames that a box says are committed: such a box says that of none."""
    FAULTS["WAL cut to nothing"](path)
    opened.close()
    (box,) = layout.boxes_in(path.parent)
    size = box.stat().st_size
    compact(box)
    assert box.stat().st_size < size
    reopened(observability)

    assert stored(query) == (BEFORE, OLD)
    assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("UPDATE traces SET duration_ms = duration_ms + 1")
print("ready", flush=True)
sys.stdin.read()
"""


def test_file_is_salvaged_where_its_wal_is_lost(observability, path, query):
    """While another process still uses the WAL that was overwritten, the rows of before are read without it."""
    with telemetry.open(observability, node_id=NODE):
        record(OLD, "old.one")
    command = [sys.executable, "-c", HOLDER, str(path)]
    with forkserver.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "ready\n"
        shell(ZEROS, path)
        assert len(salvage(path).traces) == OLD
        reopened(observability)
        assert len(quarantined(path)) == 1
        holder.stdin.close()

    assert stored(query) == (0, OLD)


def test_copy_of_the_own_box_is_no_leftover(observability, opened, path):
    """A copy under another name does not end the run that it is of."""
    (box,) = layout.boxes_in(path.parent)
    shutil.copy(box, box.with_name("telemetry.1.box2"))

    assert leftover_boxes(path.parent, box) == []


def test_overwritten_wal_is_noticed_by_a_query(observability, opened, path, query):
    """A WAL of the same size is not checked before a commit; a reader that finds damage has the writer do it."""
    shell(ZEROS, path)
    record(AFTER)
    opened.flush(1)
    wait_until(lambda: len(trace.get_recent(1_000)) == BEFORE + AFTER + OLD)
    opened.close()
    reopened(observability)

    assert stored(query) == (BEFORE + AFTER, OLD)


def test_overwritten_wal_is_noticed_at_a_clean_stop(observability, opened, path, query):
    """Before the box is removed, a new connection must find what was committed."""
    shell(ZEROS, path)
    opened.close()
    assert len(layout.boxes_in(path.parent)) == 1
    reopened(observability)

    assert stored(query) == (BEFORE, OLD)


@pytest.mark.parametrize("sql", ["PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM; PRAGMA wal_checkpoint(TRUNCATE)"])
def test_file_that_sqlite_made_smaller_is_no_fault(observability, opened, path, query, sql):
    """A checkpoint or VACUUM of another program is no reason to open the store anew, or for a warning."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in sql.split("; "):
            other.execute(statement).fetchall()
    record(AFTER)
    assert opened.flush()

    assert stored(query) == (BEFORE + AFTER, OLD)
    assert [line["msg"] for line in log_lines(observability.log_dir) if line["level"] == "warning"] == []


READER = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
for line in sys.stdin:
    print(connection.execute("SELECT count(*) FROM traces").fetchone()[0], flush=True)
"""


def test_reader_that_stays_does_not_keep_others_in_the_past(observability, opened, path, query):
    """With -shm removed, and a reader that made a new one, every reader sees what is committed from then on."""
    beside(path, "-shm").unlink()
    command = [sys.executable, "-c", READER, str(path)]
    with forkserver.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:

        def seen():
            reader.stdin.write("\n")
            reader.stdin.flush()
            return int(reader.stdout.readline())

        assert seen() == BEFORE + OLD
        for total in range(100, 600, 100):
            record(100)
            assert opened.flush()
            assert (stored(query), seen()) == ((BEFORE + total, OLD), BEFORE + OLD + total)
        reader.stdin.close()
    assert query("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize(
    "fault",
    [
        "os.truncate(box, 0)",
        "os.truncate(box, 9000)",
        "box.unlink()",
        "shutil.copy(box, box.with_name('c')); box.with_name('c').replace(box)",
        "box.unlink(); box.write_bytes(b'no box' * 9000)",
    ],
    ids=["cut to nothing", "cut", "removed", "replaced by its copy", "replaced by another file"],
)
@pytest.mark.parametrize("is_pending", few([True, False], True))
def test_box_that_is_cut_or_replaced_is_made_again(observability, run_and_die, query, fault, is_pending):
    """At the next round there is a whole box, with what is pending: a kill after that loses nothing."""
    then = "record(5)" if is_pending else "pass"
    run_and_die(f"""
import shutil
t = telemetry.open(config, node_id="ed25519:me")
t.start()
record(20)
assert t.flush()
t.pause()  # else a round may see it at the same moment
box = t._recorder.box.path
{fault}
t._thread.ensure_box()
{then}
die()
""")
    with telemetry.open(observability, node_id=NODE):
        assert query("SELECT count(*) FROM traces") == [(25 if is_pending else 20,)]
        assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]


def test_box_that_is_cut_keeps_what_waits(observability, run_and_die, query):
    """What is not committed when the box is cut is written into it once more."""
    run_and_die("""
t = telemetry.open(config, node_id="ed25519:me")
t.start()
record(20)
assert t.flush()
t.pause()
record(7)
os.truncate(t._recorder.box.path, 0)
t._thread.ensure_box()
record(3)
die()
""")
    with telemetry.open(observability, node_id=NODE):
        assert query("SELECT count(*) FROM traces") == [(30,)]
        assert query("SELECT ifnull(sum(count), 0) FROM gaps") == [(0,)]


def test_doctor_has_the_damage_mended(observability, opened, path, query):
    """Damage that a check sees is reported to the writer, which recovers this run's records."""
    shell(ZEROS.replace("{end}", ""), path)
    shell("dd if=/dev/zero of={path}{end} bs=4096 count=30 conv=notrunc status=none", path)
    opened.suspect()
    wait_until(lambda: quarantined(path) or len(trace.get_recent(1_000)) == BEFORE + OLD)
    assert opened.flush()
    opened.close()

    assert stored(query)[0] == BEFORE
