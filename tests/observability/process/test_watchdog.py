"""A stuck loop is noticed, distinguished from one without a CPU and from a stopped process, and recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import orjson
import pytest
from support import forkserver
from support.waiting import until

from hearthnet.constants import MAX_LOG_ROW_BYTES
from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Vitals
from hearthnet.observability import metrics, telemetry, trace
from hearthnet.observability.logs.messages import MESSAGE_BYTES
from hearthnet.observability.process import stall as standstill
from hearthnet.observability.process import watchdog
from hearthnet.observability.process.stall import Use, cause_of, suspended_s, use_of
from hearthnet.observability.process.watchdog import Watchdog
from hearthnet.observability.records.record import encode

PATIENCE_S = 30
STUCK = "event loop stuck"
RESPONDS = "event loop responds again"

# Blocks its loop in a system call, for ever, in the middle of a trace.
BLOCKED = """
import asyncio, select, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
from hearthnet.observability.process.watchdog import Watchdog

async def bide():
    await asyncio.get_running_loop().create_future()

async def ask_the_disk():
    with trace.new_trace("file.read"), trace.span("wait for the disk"):
        select.select([], [], [])

async def main():
    data = Path(sys.argv[1])
    with telemetry.open(ObservabilityConfig(data_dir=data, log_dir=None, flush_interval_s=60)):
        with Watchdog(asyncio.get_running_loop(), 0.4, data):
            biding = asyncio.create_task(bide(), name="biding")
            await asyncio.sleep(0)
            await asyncio.create_task(ask_the_disk(), name="reader")

asyncio.run(main())
"""
FORKED = """
import asyncio, os
from hearthnet.observability.process.watchdog import Watchdog

async def main():
    dog = Watchdog(asyncio.get_running_loop())
    with dog:
        child = os.fork()
        if child == 0:
            dog.close()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), dog._thread.is_alive())

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("stuck_s", "used", "runnable", "expected"),
    [
        (2.1, Use(0.0, 0.001), 0.0, ("blocked", "sleeping")),
        (2.1, Use(0.9, 0.1), 0.0, ("blocked", "sleeping")),  # most of it asleep
        (2.1, Use(2.08, 0.0), 1.0, ("blocked", "computing")),
        (2.1, Use(1.2, 0.9), 1.0, ("blocked", "computing")),
        (9.0, Use(2.3, 6.7), 1.0, ("blocked", "computing")),  # so much work is too much on any machine
        (2.1, Use(0.3, 1.7), 1.0, ("starved", "waiting")),
        (2.1, Use(0.0, 0.0), 1.0, ("starved", "waiting")),  # one wait that is not over, so in no sum
        (2.1, Use(0.0, 0.0), 0.4, ("blocked", "sleeping")),
        (2.1, None, 0.0, ("blocked", "unknown")),  # a system without these figures
    ],
)
def test_cause_by_what_the_thread_spent(stuck_s, used, runnable, expected):
    """Asleep or computing is the loop's own doing; a thread that waited for a CPU most of the time was starved."""
    assert cause_of(stuck_s, used, runnable, patience_s=2.0) == expected


@pytest.mark.parametrize(
    ("elapsed_s", "used", "process_cpu_s", "expected"),
    [
        (1.02, Use(), 0.0, 0.0),  # on time
        (3_600.0, Use(), 0.01, 3_598.74),  # stopped by a signal or a debugger
        (5.0, Use(0.0, 3.9), 0.1, 0.0),  # the watchdog itself got no CPU
        (5.0, Use(), 4.9, 0.0),  # somebody computed and kept the interpreter's lock
        (5.0, None, 0.0, 3.75),
    ],
)
def test_time_in_which_nobody_ran(elapsed_s, used, process_cpu_s, expected):
    """What neither load nor work explains of a wait that should have taken a second was no time of the process."""
    assert suspended_s(elapsed_s, 1.0, used, process_cpu_s) == pytest.approx(expected)


class Machine:
    """A clock and a scheduler that do as the test says, and a watchdog whose thread is the test."""

    def __init__(self, monkeypatch, stall_s=2.0) -> None:
        self.now_s = 1_000.0
        self.used = Use()
        self.process_cpu_s = 0.0
        self.is_runnable = False
        monkeypatch.setattr(watchdog, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(watchdog, "use_of", lambda _: self.used)
        monkeypatch.setattr(watchdog, "is_runnable", lambda _: self.is_runnable)
        monkeypatch.setattr(watchdog, "time", SimpleNamespace(process_time=lambda: self.process_cpu_s))
        self.loop = asyncio.new_event_loop()
        self.dog = Watchdog(self.loop, stall_s)
        self.dog._note_own_use()
        self.look()

    def look(self, late_s=0.0) -> None:
        """Looks, as long after the last look as the watchdog wanted, or later."""
        self.now_s += self.dog._wait_s + late_s
        self.dog._look()

    def look_until(self, after_s: float, each=lambda: None) -> None:
        """Looks on time until so long after the first look."""
        while self.now_s < 1_000.0 + after_s:
            each()
            self.look()

    def answer(self) -> None:
        """The loop runs whatever waits, and the watchdog looks."""
        self.loop.run_until_complete(asyncio.sleep(0))
        self.look()


@pytest.fixture
def machine(monkeypatch):
    """A machine on which the loop sleeps."""
    made = Machine(monkeypatch)
    yield made
    made.loop.close()


def told(logged) -> list[tuple]:
    """The watchdog's records: message, level, seconds, cause."""
    ours = (record for record in logged if record.name == "hearthnet.observability.watchdog")
    return [
        (item.msg, item.levelname, item.hearthnet_extras["stuck_s"], item.hearthnet_extras["cause"]) for item in ours
    ]


def test_a_stall_is_told_twice_and_its_end_once(machine, logged, observability):
    """One record after `stall_s`, one after ten times as long, none however long it goes on, and one at the end."""
    metrics.configure(observability)
    machine.look_until(600)
    machine.answer()
    machine.answer()

    (first, second, last) = told(logged)
    assert first[:2] == (STUCK, "ERROR")
    assert 2.0 <= first[2] <= 2.25
    assert 20.0 <= second[2] <= 20.25
    assert last == (RESPONDS, "WARNING", pytest.approx(600, abs=2), "blocked")
    assert b'hearthnet_event_loop_stalls_total{cause="blocked"} 1.0' in metrics.exposition()[0]


def test_loop_that_answers_in_time_is_not_told(machine, logged):
    """A loop that is late, but not by `stall_s`, leaves its lag alone."""
    for _ in range(20):
        machine.look_until(machine.now_s - 1_000.0 + 1.5)
        machine.answer()

    assert told(logged) == []
    assert max(machine.dog._lags) > 1


@pytest.mark.parametrize("has_answered_before", [True, False])
def test_process_that_was_stopped_has_no_stall(machine, logged, has_answered_before):
    """An hour under a stop signal, a debugger or a closed lid is no stall, nor are ten of them."""
    for _ in range(10):
        if has_answered_before:
            machine.loop.run_until_complete(asyncio.sleep(0))
        machine.look(late_s=3_600)
        machine.answer()

    assert told(logged) == []


def test_starved_loop_is_told_later(machine, logged):
    """A loop that waits for a CPU has three times as long; so it is with a watchdog that waits for one as well."""

    def starve() -> None:
        machine.used = Use(machine.used.cpu_s + 0.01, machine.used.waited_s + machine.dog._wait_s)

    machine.is_runnable = True
    machine.look_until(5.5, starve)
    assert told(logged) == []
    machine.look_until(8, starve)

    ((message, _, stuck_s, cause),) = told(logged)
    assert (message, cause) == (STUCK, "starved")
    assert 6.0 <= stuck_s <= 6.25


def test_stall_that_kept_the_watchdog_from_telling_is_told_at_its_end(machine, logged):
    """A library that computed for 9 s with the interpreter's lock in hand: nobody could look, somebody says so."""
    machine.process_cpu_s, machine.used = 9.0, Use(9.0, 0.0)
    machine.now_s += machine.dog._wait_s + 8.0
    machine.loop.run_until_complete(asyncio.sleep(0))
    machine.dog._look()

    assert told(logged) == [(RESPONDS, "WARNING", pytest.approx(9.0), "blocked")]


def test_tasks_that_cannot_be_listed_cost_the_list_alone(machine, logged, monkeypatch):
    """Asyncio gives up listing tasks that come and go meanwhile: the record has all else."""

    def changing(_):
        raise RuntimeError("Set changed size during iteration")

    monkeypatch.setattr(asyncio, "all_tasks", changing)
    machine.look_until(3)

    (fields,) = [record.hearthnet_extras for record in logged if record.msg == STUCK]
    assert fields["tasks"] == []
    assert "test_watchdog.py" in " ".join(fields["stack"])


def test_trouble_of_its_own_is_told_once(machine, logged, monkeypatch):
    """A watchdog that fails at every look says so once, raises nothing, and ends when its loop is closed."""
    monkeypatch.setattr(machine.dog, "_ask_s", 0.001)
    monkeypatch.setattr(machine.dog, "_look", lambda: 1 / len(()))
    rounds = iter(range(50))
    monkeypatch.setattr(machine.dog._stopping, "wait", lambda _: next(rounds, None) is None)
    machine.dog._live()

    assert [record.msg for record in logged if record.levelname == "ERROR"] == [
        "the watchdog met an error that it does not know"
    ]


async def test_thread_ends_with_its_block_and_with_its_loop(logged):
    """`close` ends it, twice is fine; so does a loop that is closed under it, without a word."""
    with Watchdog(asyncio.get_running_loop(), 0.2) as dog:
        thread = dog._thread
    dog.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()

    other = asyncio.new_event_loop()
    with Watchdog(other, 0.2) as dog:
        other.close()
        dog._thread.join(PATIENCE_S)
        assert not dog._thread.is_alive()
    assert told(logged) == []


def test_forked_child_has_nothing_to_end():
    """In a child there is no thread: closing returns at once, and the parent's goes on."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("7 True\n", "")


async def test_computation_is_told_as_such(logged, observability):
    """A coroutine that computes until it is logged: the record names it, with its CPU time."""

    def is_told() -> bool:
        return any(record.msg == STUCK for record in logged)

    async def compute_for_long() -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not is_told() and time.monotonic() < ends_at:
            sum(range(1_000))

    with telemetry.open(observability), Watchdog(asyncio.get_running_loop(), 0.4, observability.data_dir):
        with trace.new_trace("a.b"):
            await asyncio.create_task(compute_for_long(), name="sums")
        await until(lambda: any(record.msg == RESPONDS for record in logged))

    (fields,) = [record.hearthnet_extras for record in logged if record.msg == STUCK]
    assert any("compute_for_long" in line for line in fields["stack"])
    assert fields["tasks"][0].startswith("sums ")
    assert fields["tasks"][0].endswith("compute_for_long runs")
    assert [entry["capability"] for entry in fields["spans"]] == ["a.b"]
    if use_of(os.getpid()) is None:
        assert fields["state"] == "unknown"
    else:  # on a machine that others use it may well have waited for longer than it computed
        is_starved = fields["cpu_s"] < min(fields["stuck_s"] - fields["cpu_s"], 0.4)
        assert (fields["cause"], fields["state"]) == (
            ("starved", "waiting") if is_starved else ("blocked", "computing")
        )
        assert fields["cpu_s"] > 0


def test_killed_while_stuck(observability):
    """What blocks the loop is in the black box although nothing else of the process can run, and then in the store."""
    with forkserver.spawn([sys.executable, "-c", BLOCKED, str(observability.data_dir)]) as process:
        try:
            record = wait_for_record(observability.data_dir, process)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL

    fields = record["extras"]
    assert [record[name] for name in ("level", "logger", "msg")] == ["error", "hearthnet.observability.watchdog", STUCK]
    assert fields["cause"] == "blocked"
    assert fields["stack"][0].endswith(" ask_the_disk")
    assert [task.split(" waits at ")[0] for task in fields["tasks"][:2]] == ["reader ask_the_disk runs", "Task-1 main"]
    assert any(task.startswith("biding bide waits at ") for task in fields["tasks"])
    (open_trace,) = fields["spans"]
    assert (open_trace["capability"], open_trace["span"]) == ("file.read", "wait for the disk")
    with (
        telemetry.open(observability),
        closing(sqlite3.connect(observability.data_dir / telemetry.DATABASE)) as connection,
    ):
        ((extras,),) = connection.execute("SELECT extras FROM logs WHERE msg = ?", (STUCK,))
        ((started, seen, vitals),) = connection.execute(
            "SELECT started_us, last_seen_us, vitals FROM runs WHERE end_reason = 'unclean'"
        )
    assert orjson.loads(extras) == fields
    samples = orjson.loads(vitals)
    assert started <= samples[0]["ts_us"] <= samples[-1]["ts_us"] <= seen
    assert set(samples[0]) - {"kernel"} == {field.name for field in dataclasses.fields(Vitals)}
    assert samples[0]["disk_free_bytes"] > 0


def wait_for_record(directory, process) -> list:
    """Waits until a box in the folder has a stall's record; returns its values."""
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at and process.poll() is None:
        for path in layout.boxes_in(directory):
            box = layout.read_box(path)
            for values in (layout.fields(frame, "logs") for frame in box.logs if box is not None):
                if values["msg"] == STUCK:
                    return values
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("nothing was recorded")


async def test_a_crowd_fits_into_a_row(observability):
    """A deep stack, many tasks with long names and many traces leave the innermost frames, the task, the oldest."""

    async def deep(depth: int) -> tuple:
        if depth:
            return await deep(depth - 1)
        return standstill.stack_of_thread(watchdog.threading.get_ident()), standstill.tasks_of(loop)

    loop = asyncio.get_running_loop()
    odd = "task " + "\udcff" * 50
    with telemetry.open(observability, node_id="node"):  # whose box marks more than 64 traces
        crowd = [asyncio.create_task(asyncio.sleep(600), name=f"{odd} {n}") for n in range(500)]
        await asyncio.sleep(0)
        open_ones = [trace.new_trace(f"a.{'long' * 15}{n}") for n in range(200)]
        stack, tasks = await asyncio.create_task(deep(100), name="the one that runs")
        spans = standstill.spans_in_flight()
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    del open_ones

    encoded = encode({"stack": stack, "tasks": tasks, "spans": spans, "cause": "blocked", "state": "computing"})
    assert len(encoded) + 100 < MAX_LOG_ROW_BYTES - 2 * MESSAGE_BYTES
    assert len(orjson.loads(encoded)["stack"]) == len(stack) > 10
    assert "deep" in stack[1]
    assert tasks[0].startswith("the one that runs ")
    assert int(tasks[-1].split()[0].strip("[")) > 400
    assert spans[-1]["more"] > 100
