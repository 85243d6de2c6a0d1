"""A node, workers and short programs share one store, while random ones are killed: nothing is lost or doubled."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager

import siblings
from support import forkserver
from support.waiting import wait_until


def test_siblings_lose_nothing(node, tmp_path, monkeypatch):
    """While three of them are killed, all that was recorded is in SQL once, and every run has the end that it had."""
    monkeypatch.setattr(siblings, "WORKERS", 2)
    monkeypatch.setattr(siblings, "PROGRAMS_A_SECOND", 1)
    monkeypatch.setattr(siblings, "LATE_S", 30.0)  # the machine may be busy with other tests
    soak, figures = siblings.soak_all(tmp_path, node, seconds=4.0, kills=3, seed=1)

    assert figures["breaches"] == []
    assert figures["killed"] + figures["node_kills"] > 0
    assert figures["traces_recorded"] > 10
    _the_judgement_can_fail(soak)


def _the_judgement_can_fail(soak):
    orderly = next(life for life in soak.ended if life.done() and not life.is_killed)
    gone = next(done for done in orderly.done() if done.result == "ok")
    with closing(sqlite3.connect(soak.node.data_dir / "telemetry.db")) as db, db:
        db.execute("DELETE FROM traces WHERE trace_id = ?", (gone.trace_id,))
        db.execute("UPDATE runs SET end_reason = 'unclean' WHERE pid = ?", (orderly.process.pid,))
    lacking, unclean = siblings.breaches(soak)
    assert "lacks 1 traces" in lacking
    assert "ended in order, its runs say [('unclean',)]" in unclean


def test_readmes_program_beside_a_node_is_kept_each_time(node):
    """Six runs of README's program within seconds: six rows, and each has ended in order."""
    started = [
        forkserver.spawn([sys.executable, "-c", siblings.README], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    assert [program.communicate()[1] for program in started] == [b""] * 6

    assert node.sql("SELECT count(*), count(DISTINCT run_id) FROM traces WHERE capability = 'experimental.work'") == [
        (6, 6)
    ]
    assert node.sql("SELECT count(*) FROM logs WHERE msg = 'working'") == [(6,)]
    assert node.sql("SELECT end_reason FROM runs WHERE node_id IS NULL") == [("clean",)] * 6
    assert node.sql("SELECT count(*) FROM gaps") == [(0,)]


# Waits until its standard input is closed.
WAITING = """
import sys
from hearthnet.config import load, resolve_paths
from hearthnet.observability import telemetry, trace

with telemetry.open(resolve_paths(load()).observability) as t:
    with trace.new_trace("experimental.wait"):
        pass
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def waiting_programs(count):
    """So many of them, which end with the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ExitStack() as stack:
        command = [sys.executable, "-c", WAITING]
        yield [stack.enter_context(forkserver.spawn(command, text=True, **pipes)) for _ in range(count)]


def test_seventeenth_program_is_told_that_it_has_no_box_and_commits(node):
    """There is space for so many boxes only: whoever comes later records into the database all the same."""
    with waiting_programs(17) as programs:
        assert [program.stdout.readline() for program in programs] == ["ready\n"] * 17
        wait_until(lambda: node.sql("SELECT count(*) FROM traces WHERE capability = 'experimental.wait'") == [(17,)])
        told = [line for line in node.log_lines() if line["msg"].startswith("there is no black box")]
        boxes = list(node.data_dir.glob("*.box*"))
        for program in programs:
            program.stdin.close()
            program.wait()

    assert len(boxes) == 17  # the node's and sixteen
    assert len(told) == 1
    assert node.sql("SELECT end_reason, count(*) FROM runs WHERE node_id IS NULL GROUP BY 1") == [("clean", 17)]
