"""The checks of runs: real programs that stop, crash, hang or are killed."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

import pytest
from support import forkserver

from hearthnet.forensics import box as layout
from hearthnet.forensics.gather import gather
from hearthnet.forensics.verdict import judge
from hearthnet.observability import doctor, telemetry

# Records into the store, with a call under way, and ends in the way that it is told.
PROGRAM = """
import ctypes, os, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.constants import CRASH_LOGGER, WATCHDOG_LOGGER
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.process import uncaught as capture
from hearthnet.observability.process.fault_file import FaultFile

folder, end, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None
sys.argv[0] = sys.argv[4] or sys.argv[0]
with FaultFile(folder), telemetry.open(ObservabilityConfig(data_dir=folder, max_disk_mb=64), node_id=name) as t:
    for _ in range(3):
        with trace.new_trace("llm.chat"):
            pass
    assert t.flush()
    if end == "stop":
        sys.exit()
    if end == "stuck":
        stuck = {"stuck_s": 2.5, "cause": "blocked", "stack": ["busy (app.py:7)"]}
        get_logger(WATCHDOG_LOGGER).error("event loop stuck", extra=stuck)
    if end == "exception":
        get_logger(CRASH_LOGGER).critical("uncaught exception", extra={"error": "ValueError"})
        sys.exit()
    trace.new_trace("rag.query")
    trace.span("embed").__enter__()
    if end == "fault":
        ctypes.string_at(0)
    os.kill(os.getpid(), 9)
"""
RUN_TIMES = ("started", "ended", "last_seen")
ENDS = {"stop": 0, "exception": 0, "fault": -11}


@pytest.fixture
def live(config):
    """Runs a program that ends in a given way in the node's folder."""
    folder = config.observability.data_dir
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def run(*ends: str, node_id: str = "", program: str = "") -> None:
        for end in ends:
            done = forkserver.run([sys.executable, "-c", PROGRAM, folder, end, node_id, program])
            assert done.returncode == ENDS.get(end, -9), done.stderr

    return run


def last(config, bus=None):
    """Returns the finding of `last_run`, without a time limit."""
    return doctor.run_one("last_run", config, bus, deadline_s=60)


def loop(config, bus=None):
    """Returns the finding of `restart_loop`, without a time limit."""
    return doctor.run_one("restart_loop", config, bus, deadline_s=60)


def put_back(config, hours: float, where: str = "1") -> None:
    """Moves runs and their records back in time."""
    us = int(hours * 3_600_000_000)
    times = (("traces", "started_us"), ("logs", "ts_us"), *(("runs", f"{name}_us") for name in RUN_TIMES))
    with closing(sqlite3.connect(config.observability.data_dir / telemetry.DATABASE)) as connection:
        chosen = [run_id for (run_id,) in connection.execute(f"SELECT run_id FROM runs WHERE {where}")]
        for table, column in times:
            statement = f"UPDATE {table} SET {column} = {column} - ? WHERE run_id = ?"
            connection.executemany(statement, [(us, run_id) for run_id in chosen])
        connection.commit()


def test_no_run_and_a_first_one(node):
    """Without records, and during the first run, there is nothing to report."""
    config, bus = node
    assert (last(config).detail, loop(config).detail) == ("nothing recorded yet", "nothing recorded yet")
    with telemetry.open(config.observability):
        first = last(config, bus), loop(config, bus)

    assert [(result.status, result.detail) for result in first] == [
        ("pass", "no previous run"),
        ("pass", "0 unclean ends within 20 min"),
    ]


def test_run_that_was_stopped(node, live):
    """Clean stops pass, even several in a row; the running node's own run is not the last one."""
    live("stop", "stop", "stop")
    config, bus = node
    outside = last(config)
    with telemetry.open(config.observability):
        inside = last(config, bus)
        looped = loop(config, bus)

    assert (outside.status, inside.status) == ("pass", "pass")
    assert outside.evidence["run_id"] == inside.evidence["run_id"]
    assert (inside.evidence["cause"], inside.evidence["interrupted"]) == ("clean_stop", 0)
    assert (looped.status, looped.evidence["deaths"]) == ("pass", 0)


@pytest.mark.parametrize(
    ("end", "cause", "told"),
    [
        ("kill", "killed", "it was killed, or exited without cleanup"),
        ("stuck", "loop_stuck", "its event loop was stuck (likely); the event loop was stuck from"),
        ("fault", "native_fault", "a fault in native code ended it (certain)"),
        ("exception", "exception", "an uncaught exception ended it"),
    ],
)
def test_run_that_ended_otherwise(node, live, end, cause, told):
    """An unclean end is a warning with cause and open calls, the same from disk and in the node."""
    live(end)
    config, bus = node
    box_is_there = bool(layout.boxes_in(config.observability.data_dir))
    outside = last(config)
    with telemetry.open(config.observability):
        inside = last(config, bus)

    assert box_is_there == (end != "exception")
    for result in (outside, inside):
        assert (result.status, result.ok, result.fix) == ("warn", True, "hearthnet autopsy")
        assert told in result.detail
        assert (result.evidence["cause"], bool(result.evidence["because"])) == (cause, True)
        if box_is_there:
            assert "1 call interrupted: embed of rag.query" in result.detail
            (left,) = result.evidence["open"]
            assert (left["capability"], left["span"]) == ("rag.query", "embed")
    assert outside.evidence["run_id"] == inside.evidence["run_id"]


def test_machine_that_lost_power(node, live, monkeypatch):
    """If the next run is in another boot, that is the cause."""
    live("kill")
    config, bus = node
    monkeypatch.setattr(layout, "this_boot", lambda: "another boot")
    with telemetry.open(config.observability):
        result = last(config, bus)

    assert (result.status, result.evidence["cause"]) == ("warn", "power_loss")
    assert "lost power or its kernel crashed" in result.detail


def test_death_long_ago(node, live):
    """After a day of running the check passes, still showing the cause; after a stop it is a warning again."""
    live("kill")
    config, bus = node
    with telemetry.open(config.observability):
        put_back(config, 25)
        result, outside = last(config, bus), last(config)

    assert (result.status, outside.status) == ("pass", "pass")
    assert result.detail.startswith("healthy for more than a day; before that, python's run of ")
    assert result.evidence["cause"] == "killed"


def test_node_that_dies_again_and_again(node, live):
    """Three unclean ends within 20 minutes fail, with what they share, until the node has run for 20 minutes."""
    config, bus = node
    live("kill", "stop", "kill")  # somebody stopped it in between: that ends no loop
    twice = loop(config)
    live("kill")
    thrice = loop(config)
    with telemetry.open(config.observability):
        inside = loop(config, bus)
        put_back(config, 0.4, "ended_us IS NOT NULL")
        later = loop(config, bus)

    assert (twice.status, twice.evidence["deaths"]) == ("pass", 2)
    for result in (thrice, inside):
        assert (result.status, result.ok, result.fix) == ("fail", False, "hearthnet autopsy")
        assert result.detail.startswith("3rd unclean end of python within 20 min, the last: it was killed")
        assert "open in several of them: embed of rag.query" in result.detail
        assert result.evidence["shared"] == [{"capability": "rag.query", "span": "embed", "runs": 3}]
        assert len(result.evidence["runs"]) == 3
    assert (later.status, later.evidence["deaths"]) == ("pass", 0)

    # As if nobody had started it after the last death, and somebody asked some hours later.
    with closing(sqlite3.connect(config.observability.data_dir / telemetry.DATABASE)) as connection:
        connection.execute("DELETE FROM runs WHERE rowid = (SELECT max(rowid) FROM runs)")
        connection.commit()
    put_back(config, 3)
    assert (loop(config).status, loop(config).evidence["deaths"]) == ("fail", 3)


def test_loop_before_a_clean_stop_is_told_by_its_own_end(node, live):
    """The last unclean end is the cause, and the one to diagnose, not the clean one after it."""
    config, _ = node
    live("kill", "kill", "stuck", "stop", node_id="N" * 52)
    result = loop(config)
    stuck = result.evidence["runs"][0]["run_id"]

    assert result.detail.startswith("3rd unclean end within 20 min, the last: its event loop was stuck")
    assert result.fix == f"hearthnet autopsy --run {stuck}"
    assert judge(gather(config.observability.data_dir, run_id=stuck)).cause == "loop_stuck"
    assert last(config).status == "pass"


def test_programs_without_a_node_are_told_apart(live, config):
    """Each by its name: three that were killed once are in no loop, one that was killed three times is."""
    for program in ("a.py", "b.py", "c.py"):
        live("kill", program=program)
    apart = loop(config)
    live("kill", "kill", program="b.py")
    live("stop", program="c.py")

    assert (apart.status, apart.evidence["deaths"]) == ("pass", 1)
    assert loop(config).detail.startswith("3rd unclean end of b.py within 20 min, the last: it was killed")
    assert last(config).detail.startswith("c.py's run of 20")
    run_id = loop(config).fix.rpartition(" ")[2]
    assert gather(config.observability.data_dir, run_id=run_id).run.program == "b.py"


def test_other_programs_with_the_same_store(live, config):
    """A recording script that is killed is not the node."""
    live("stop", node_id="N" * 52)
    live("kill", "kill", "kill")

    assert (last(config).status, loop(config).status) == ("pass", "pass")
    live("kill", node_id="N" * 52)
    assert (last(config).status, loop(config).evidence["deaths"]) == ("warn", 1)
