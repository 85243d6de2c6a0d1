"""Processes that end with their owner."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from support.waiting import wait_until

from hearthnet.observability.store.query import children as children_module
from hearthnet.observability.store.query.children import Children

FOR_EVER = [sys.executable, "-c", "import signal; signal.pause()"]


def test_result_is_that_of_the_program():
    """Its output, its errors and its exit code."""
    program = "import sys; print(sys.stdin.read().upper(), end=''); sys.exit('x')"
    done = Children().run([sys.executable, "-c", program], 60, b"text")

    assert (done.stdout, done.stderr.strip(), done.returncode) == (b"TEXT", b"x", 1)


def test_time_is_bounded():
    """A program that takes longer is killed."""
    children = Children()
    with pytest.raises(subprocess.TimeoutExpired):
        children.run(FOR_EVER, 0.1)

    assert children._running == set()


def test_closing_kills_what_runs():
    """The threads that wait for them go on at once, and nothing begins any more."""
    children, codes = Children(), []
    waiting = [threading.Thread(target=lambda: codes.append(children.run(FOR_EVER, 600).returncode)) for _ in range(2)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: len(children._running) == 2)
    children.close()
    children.close()
    for thread in waiting:
        thread.join(60)

    assert codes == [-9, -9]
    with pytest.raises(OSError, match="closed"):
        children.run(FOR_EVER, 600)


ENDING = """
import sys, threading
from hearthnet.observability.store.query.children import Children

children = Children()
command = [sys.executable, "-c", "import signal; signal.pause()"]
waiting = threading.Thread(target=lambda: print(children.run(command, 600).returncode))
waiting.start()
while not children._running:
    waiting.join(0.01)
"""


def test_the_end_of_a_program_kills_what_runs():
    """No exit hook would: those run after the thread that waits has ended."""
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr, done.returncode) == ("-9\n", "", 0)


def test_program_without_its_main_thread_goes_on(monkeypatch):
    """Its server may run in another thread: what begins after that runs to its end."""
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    monkeypatch.setattr(threading, "main_thread", lambda: ended)
    monkeypatch.setattr(children_module, "_LOOK_S", 0.001)

    assert Children().run([sys.executable, "-c", "input()"], 60, b"x\n").returncode == 0
