"""The records of a killed process are recovered: all, once, in order, first of all; and only of ended processes."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import starmap

import pytest
from support import forkserver
from support.records import a_log
from support.waiting import wait_until

from hearthnet.database import TELEMETRY, open_database
from hearthnet.forensics import box as layout
from hearthnet.observability import metrics, telemetry, trace
from hearthnet.observability.records.blackbox import Sizes, new_header
from hearthnet.observability.store import pacer
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.recovery import recover as recovery
from hearthnet.observability.store.recovery.box_records import records_of
from hearthnet.observability.store.rows import LOGS
from hearthnet.observability.telemetry import DATABASE

NEVER = """
from hearthnet.observability.store.writer import Writer
async def never(self):
    return False
Writer.flush = never
"""
OPEN_AND_CLOSE = "with telemetry.open(config) as t:\n    pass\n"


def boxes(observability):
    """Returns the remaining box files."""
    return layout.boxes_in(observability.data_dir)


def test_everything_recorded_before_a_kill_is_there(observability, run_and_die, query):
    """Traces and log records of the killed run, committed or not, are rows, in order, and the run is unclean."""
    run_and_die("""
with telemetry.open(config, node_id="ed25519:me") as t:
    record(30)
    t.flush()
    record(20, "second.part")
    get_logger("hearthnet.x").info("the last words", extra={"n": 1})
    die()
""")
    ((committed,),) = query("SELECT count(*) FROM traces")  # by the flush, or more on a machine that is slow
    with telemetry.open(observability) as t:
        assert query("SELECT count(*) FROM traces") == [(50,)]
        assert len(trace.get_recent()) == 50
        assert t.run_id not in {row[0] for row in query("SELECT DISTINCT run_id FROM traces")}
        page = metrics.exposition()[0].decode()
        assert f'hearthnet_telemetry_recovered_total{{kind="traces"}} {50 - committed:.1f}' in page
        assert 30 <= committed < 50

    seqs = [row[0] for row in query("SELECT seq FROM traces ORDER BY started_us, seq")]
    assert seqs == sorted(seqs)
    assert query("SELECT capability FROM recent LIMIT 1") == [("second.part",)]
    assert query("SELECT msg, extras ->> 'n' FROM logs WHERE logger = 'hearthnet.x'") == [("the last words", 1)]
    assert query("SELECT node_id, role, end_reason, ended_us >= started_us FROM runs ORDER BY started_us") == [
        ("ed25519:me", "node", "unclean", 1),
        (None, "library", "clean", 1),
    ]
    assert boxes(observability) == []


def test_what_was_in_flight_is_listed(observability, run_and_die, query):
    """Traces in flight become `interrupted`, with their age and the innermost open span."""
    run_and_die("""
import threading
with telemetry.open(config) as t:
    trace.new_trace("llm.chat@1.2")
    with trace.span("generate"), trace.span("token"):
        trace.new_trace("rag.query")
        threading.Event().wait(0.05)
        trace.new_trace("last.one")
        die()
""")
    with telemetry.open(observability):
        (last, query_trace, chat) = trace.get_recent()

    assert {item.result for item in (chat, query_trace, last)} == {"interrupted"}
    assert (chat.capability, [part.name for part in chat.spans], chat.spans[0].status) == (
        "llm.chat",
        ["token"],
        "open",
    )
    assert chat.duration_ms >= 50
    assert query_trace.spans == []
    assert query("SELECT count(*) FROM errors WHERE result = 'interrupted'") == [(3,)]
    assert query("SELECT notable FROM traces") == [(1,)] * 3


def test_trace_killed_between_its_record_and_its_mark_is_one_trace(observability, run_and_die, query):
    """The record is written before the mark is removed: a kill in between leaves both, which count once."""
    run_and_die("""
with telemetry.open(config) as t, trace.new_trace("a.b"):
    t._recorder.box.end = lambda slot: die()
    t._recorder.box.table.close()  # as while the box moves
""")
    with telemetry.open(observability):
        pass

    assert query("SELECT capability, result FROM traces") == [("a.b", "ok")]


@pytest.mark.parametrize("step", ["merge", "_close_run", "Path.unlink"])
def test_recovery_that_is_killed_itself_starts_again(observability, run_and_die, query, step):
    """If recovery is killed twice, before, within, or after its work, the third start has everything once."""
    run_and_die("telemetry.open(config, node_id='n').start(); record(2500); trace.new_trace('in.flight'); die()")
    killer = f"""
from hearthnet.observability.store.recovery import recover as recovery
from pathlib import Path
owner, name = (Path, "unlink") if {step!r} == "Path.unlink" else (recovery, {step!r})
setattr(owner, name, lambda *arguments, **named: die())
telemetry.open(config).start()
"""
    run_and_die(killer)
    run_and_die(killer)
    with telemetry.open(observability):
        pass

    assert query("SELECT count(*), count(DISTINCT seq), count(DISTINCT trace_id) FROM traces") == [(2501,) * 3]
    assert query("SELECT result, count(*) FROM traces GROUP BY 1 ORDER BY 1") == [("interrupted", 1), ("ok", 2500)]
    assert boxes(observability) == []


def test_kill_in_the_middle_of_a_chunk_loses_and_doubles_nothing(observability, run_and_die, query):
    """If recovery is killed after the first of its transactions, the next start does the rest."""
    run_and_die("with telemetry.open(config, node_id='n') as t:\n    record(3500)\n    die()\n")
    run_and_die("""
import sqlite3
from hearthnet.observability.store import merge
genuine, calls = merge.admit, []
def dying(*arguments):
    inserted = genuine(*arguments)
    calls.append(1)
    if len(calls) == 2:
        die()
    return inserted
merge.admit = dying
telemetry.open(config).start()
""")
    assert query("SELECT count(*) FROM traces") == [(1000,)]
    with telemetry.open(observability):
        pass

    assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(3500, 3500)]


def test_box_whose_run_is_closed_is_only_removed(observability, run_and_die, query, tmp_path):
    """A clean run that is killed between its last commit and the deletion of its box is not recovered again."""
    run_and_die("with telemetry.open(config) as t:\n    record(5)\n    die()\n")
    (path,) = boxes(observability)
    kept = tmp_path / "kept.box"
    shutil.copy(path, kept)
    with telemetry.open(observability):
        pass
    before = query("SELECT seq, trace_id FROM traces")
    shutil.copy(kept, path)
    with telemetry.open(observability):
        pass

    assert query("SELECT seq, trace_id FROM traces") == before
    assert boxes(observability) == []


def test_several_dead_runs_are_closed_in_one_start(observability, run_and_die, query, tmp_path):
    """With boxes of three runs whose stores were removed, every run is closed, and new numbers are above all."""
    for number in range(3):
        run_and_die(f"with telemetry.open(config) as t:\n    record(10, 'run.n{number}')\n    die()\n")
        (path,) = boxes(observability)
        shutil.move(path, tmp_path / f"telemetry.{number + 1}.box2")
        for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
            (observability.data_dir / name).unlink(missing_ok=True)
    for number in range(3):
        shutil.move(tmp_path / f"telemetry.{number + 1}.box2", observability.data_dir)
    with telemetry.open(observability):
        record_one = trace.new_trace("the.newest")
        trace.detach()

    assert query("SELECT count(DISTINCT run_id) FROM runs WHERE end_reason = 'unclean'") == [(3,)]
    # Each run began at 1: numbers identify a record within its run only.
    assert query("SELECT count(*), count(DISTINCT seq), count(DISTINCT number) FROM traces") == [(31, 31, 10)]
    assert query("SELECT trace_id FROM recent LIMIT 1") == [(record_one.trace_id,)]


def test_running_process_recovers_the_box_of_another_that_ended(observability, query, monkeypatch):
    """A running process recovers the box of one that stopped in order and could not commit, as a clean run."""
    monkeypatch.setattr(pacer, "_HOUSEKEEPING_S", 0.1)
    script = f"""
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
{NEVER}
with telemetry.open(ObservabilityConfig(data_dir=Path({str(observability.data_dir)!r}), log_dir=None)) as t:
    for _ in range(7):
        with trace.new_trace("of.second"):
            pass
"""
    with telemetry.open(observability):
        with trace.new_trace("of.first"):
            pass
        forkserver.run([sys.executable, "-c", script], check=True)
        wait_until(lambda: query("SELECT count(*) FROM traces WHERE capability = 'of.second'") == [(7,)])
        with trace.new_trace("of.first"):
            pass

    assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(9, 9)]
    assert query("SELECT end_reason, count(*) FROM runs GROUP BY 1") == [("clean", 2)]
    assert boxes(observability) == []


def test_records_overwritten_in_the_box_are_counted(observability, run_and_die, query):
    """Records overwritten in the box before their commit are a row in `gaps`, a count, and a line in `timeline`."""
    run_and_die("""
from hearthnet.observability.store import budget
from hearthnet.observability.records.blackbox import Sizes
budget.Budget.program_box = lambda self: Sizes(traces=40_000, logs=40_000)
with telemetry.open(config) as t:
    t._recorder.wake = lambda *_: None  # the writer neither commits nor makes the box larger
    record(2000)
    die()
""")
    with telemetry.open(observability):
        assert b'hearthnet_telemetry_dropped_total{reason="killed"}' in metrics.exposition()[0]

    ((stored,),) = query("SELECT count(*) FROM traces")
    assert query("SELECT kind, reason, count FROM gaps") == [("trace", "killed", 2000 - stored)]
    assert query("SELECT status, text FROM timeline WHERE kind = 'gap'") == [("killed", f"{2000 - stored} lost")]


def test_rows_of_a_removed_wal_are_recovered_from_the_box(observability, run_and_die, query):
    """If the -wal is removed after the kill, the records in the box are recovered."""
    run_and_die("with telemetry.open(config) as t:\n    record(300)\n    assert t.flush()\n    record(10)\n    die()\n")
    for ending in ("-wal", "-shm"):
        (observability.data_dir / f"{DATABASE}{ending}").unlink()
    with telemetry.open(observability):
        pass

    assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(310, 310)]
    assert query("SELECT count(*) FROM gaps") == [(0,)]


def test_rows_missing_from_wal_and_box_are_a_gap(observability, run_and_die, query):
    """Committed rows that are missing from database and box are a gap."""
    run_and_die("""
from hearthnet.observability.store import budget, thread, writer
from hearthnet.observability.records.blackbox import Sizes
budget.Budget.program_box = lambda self: Sizes(traces=20_000, logs=20_000)
thread.StoreThread._grow_box = lambda *_: None
async def never(_): pass
writer.Writer._checkpoint = never  # rows are in the WAL alone, however many commits it takes
with telemetry.open(config) as t:
    record(300)
    assert t.flush()
    die()
""")
    for ending in ("-wal", "-shm"):
        (observability.data_dir / f"{DATABASE}{ending}").unlink()
    with telemetry.open(observability):
        pass

    ((stored,),) = query("SELECT count(*) FROM traces")
    assert 0 < stored < 300
    assert query("SELECT reason, count FROM gaps") == [("wal_lost", 300 - stored)]


def test_a_full_box_is_recovered(observability, run_and_die, query):
    """Of 12,000 traces that were never committed the newest 10,000 are recovered, by the ring's rule."""
    run_and_die(f"""
{NEVER}
t = telemetry.open(config, node_id='n')
t.start()
record(12_000)
die()
""")
    with telemetry.open(observability):
        pass

    assert query("SELECT count(*), max(seq) - min(seq) FROM traces") == [(10_000, 9_999)]


def test_values_of_another_shape_are_left_out():
    """A payload with a valid checksum that does not fit its table is skipped."""
    header = layout.Header(1, 1, 1, layout.NODE, 1, 1, 1, 1, "R", "b", "1", None)
    good = b'[1,"T",null,"a.b",null,1,1,0.5,"ok",null,0,[],{}]'
    bad = [b"{}", b"[]", b"7", good.replace(b"[1,", b"[true,"), good.replace(b"0.5", b'"x"'), b"[" * 9_000]
    bad.append(good.replace(b"[1,", b"[99999999999999999999,"))
    box = layout.Box(header, traces=list(starmap(layout.Frame, enumerate([good, *bad], 1))))

    assert [record.number for record in records_of(box).traces] == [1]


def test_logs_of_a_dead_run_follow_the_rings_rule(observability, run_and_die, query):
    """Recovered rows evict the oldest: the ring keeps its size."""
    run_and_die("""
from hearthnet.observability.logs import messages
messages.LINES_A_SECOND = messages.ROWS_A_SECOND = 1_000_000
with telemetry.open(config) as t:
    for number in range(9_900):
        get_logger("hearthnet.x").info("early")
    assert t.flush()
    for number in range(300):
        get_logger("hearthnet.x").info("late")
    die()
""")
    with telemetry.open(observability):
        assert query("SELECT count(*) FROM logs") == [(10_000,)]
        assert query("SELECT count(*) FROM logs WHERE msg = 'late'") == [(300,)]


def test_closing_a_run_twice_changes_nothing(tmp_path):
    """Runs without an end are closed as of their last record; the present run stays open."""
    with closing(open_database(tmp_path / DATABASE, TELEMETRY)) as connection:
        for run_id in ("DEAD", "OURS"):
            connection.execute("INSERT INTO runs (run_id, version, pid, started_us) VALUES (?, '1', 1, 50)", (run_id,))
        connection.execute(LOGS.insert, a_log(1, "DEAD", seq=1, ts_us=70))
        for _ in range(2):
            recovery.close_other_runs(connection, {"OURS"})
        assert connection.execute("SELECT run_id, ended_us, end_reason FROM runs ORDER BY 1").fetchall() == [
            ("DEAD", 70, "unclean"),
            ("OURS", None, None),
        ]


def test_run_that_is_killed_once_its_row_is_there_is_closed_at_the_next_start(observability, run_and_die, query):
    """Whatever is killed while it opens the store has its box already, by which the next process knows of its death."""
    with telemetry.open(observability):
        pass
    run_and_die("""
from hearthnet.observability.store.writer import Writer
opened = Writer.open
async def open_and_die(*arguments):
    await opened(*arguments)
    die()
Writer.open = open_and_die
with telemetry.open(config):
    pass
""")
    assert query("SELECT count(*) FROM runs WHERE ended_us IS NULL") == [(1,)]
    with telemetry.open(observability):
        assert query("SELECT end_reason FROM runs ORDER BY rowid") == [("clean",), ("unclean",), (None,)]


def test_disk_without_room_for_a_recovery_keeps_the_box(observability, run_and_die, query, monkeypatch):
    """If records cannot be recovered now, the box stays, no number is used twice, a later start recovers all."""
    run_and_die("with telemetry.open(config) as t:\n    record(50)\n    die()\n")

    def full(*_, **__):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(recovery, "merge", full)
        with telemetry.open(observability) as t:
            assert t.error is None
            with trace.new_trace("in.between"):
                pass
        assert len(boxes(observability)) == 1
    with telemetry.open(observability):
        pass

    assert query("SELECT count(*), count(DISTINCT seq) FROM traces") == [(51, 51)]
    assert boxes(observability) == []


def test_run_of_a_living_process_is_not_closed(observability, query):
    """If a process closes with uncommitted records and runs on, its box is recovered when it ends."""
    script = f"""
import sqlite3, sys, threading
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
data = Path({str(observability.data_dir)!r})
with telemetry.open(ObservabilityConfig(data_dir=data, log_dir=None, flush_interval_s=60)):
    other = sqlite3.connect(data / "telemetry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(100):
        with trace.new_trace("of.first"):
            pass
for thread in set(threading.enumerate()) - {{threading.main_thread()}}:
    thread.join()  # of a slow machine's telemetry: it could still commit
other.execute("ROLLBACK")
print("closed", flush=True)
sys.stdin.read()
"""
    first = forkserver.spawn([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "closed\n"
    with telemetry.open(observability):
        assert query("SELECT ended_us FROM runs WHERE pid = ?", first.pid) == [(None,)]
    first.communicate()
    with telemetry.open(observability):
        pass

    assert query("SELECT count(*) FROM traces WHERE capability = 'of.first'") == [(100,)]
    assert boxes(observability) == []


def test_losses_that_were_counted_are_not_counted_again_after_a_kill(observability, run_and_die, query):
    """Records dropped from the buffer are one gap; the kill that follows adds none."""
    run_and_die("""
import sqlite3
from hearthnet.observability.records import recorder
recorder.STORE_TRACES = 500
with telemetry.open(config) as t:
    record(1)
    t.flush()
    other = sqlite3.connect(config.data_dir / "telemetry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    record(1_700)
    t.flush(0.5)
    other.execute("ROLLBACK")
    assert t.flush(30)
    die()
""")
    with telemetry.open(observability):
        pass

    assert query("SELECT reason, sum(count) FROM gaps GROUP BY 1") == [("buffer_full", 1_200)]


def test_recovery_keeps_the_ceiling(observability, run_and_die, keep_within):
    """If run after run is killed with large traces in its box, the database stays below its share of a small budget."""
    keep_within(16)
    for _ in range(4):
        run_and_die("""
from hearthnet.observability.store.budget import Budget
telemetry.Budget = lambda _: Budget(16)
with telemetry.open(config) as t:
    for number in range(600):
        with trace.new_trace("large.one"):
            for _ in range(4):
                with trace.span("part", text="x" * 1_100):
                    pass
        if number == 500:
            assert t.flush(30)  # the rest is in the box alone, or some of it is
    die()
""")
    with telemetry.open(observability):
        assert 6_000_000 < (observability.data_dir / DATABASE).stat().st_size <= Budget(16).database


def test_thread_survives_an_unexpected_error(observability, query):
    """After any unexpected error the thread reopens the store, and reports the error until then."""
    with telemetry.open(observability) as t:
        writer = t._thread.writer

        async def broken():
            raise ValueError("not foreseen")

        writer.flush = broken
        with trace.new_trace("a.b"):
            pass
        wait_until(lambda: t.error)
        assert t.error == "ValueError: not foreseen"
        assert t.flush(20)
        assert t.error is None

    assert query("SELECT count(*) FROM traces") == [(1,)]


@pytest.mark.parametrize(("span", "said"), [(None, "outside any span"), ("generate", "in generate")])
def test_interrupted_trace_says_why_it_has_no_end(span, said):
    """A row of the view `errors` has a text."""
    header = new_header(layout.NODE, "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "1", None, Sizes(1, 1))
    flying = layout.InFlight("01HXR4Z6W5S9E2JQ4Y0T7B3M1D", "llm.chat", 1, 2, span, span and 3)

    (record,) = records_of(layout.Box(header, in_flight=[flying])).interrupted
    assert record.error == f"its run ended while it was {said}"
