"""Processes that end with their owner."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from support.waiting import wait_until

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
