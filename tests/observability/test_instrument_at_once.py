"""Series are made, and counted, in threads, forked children, finalizers and signal handlers."""

from __future__ import annotations

import os
import sys
import threading

import pytest
from support import forkserver
from support.reading import series
from support.threads import at_once

from hearthnet.observability import metrics
from hearthnet.observability.instrument import MAX_SERIES


def test_threads_lose_no_count(counter):
    """Eight threads that invent the same names side by side: the bound holds, and every count is somewhere."""

    def invent():
        for number in range(1_000):
            counter.labels(str(number), "s").inc()

    at_once(lambda _: invent(), range(8))

    found = series(counter.name)
    assert len(found) == MAX_SERIES + 1
    assert sum(found.values()) == 8_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_counts_though_the_locks_were_held(counter):
    """In series that there are, with labels or without, and with wrong ones."""
    plain = metrics.gauge("hearthnet_test_forked", "Test.")
    known = counter.labels("a", "s")

    def count_all():
        known.inc()
        plain.inc()
        counter.labels("a").inc()

    with counter._lock, plain._lock:
        pid = os.fork()
        if pid == 0:
            thread = threading.Thread(target=count_all, daemon=True)
            thread.start()
            thread.join(10)
            os._exit(int(thread.is_alive()))
        _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_makes_series_though_the_lock_was_held(counter):
    """A thread that made a series at the fork is not in the child; what it held is free there."""
    with counter._lock:
        pid = os.fork()
        if pid == 0:
            thread = threading.Thread(target=lambda: counter.labels("child", "s"), daemon=True)
            thread.start()
            thread.join(10)
            os._exit(int(thread.is_alive()))
        _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0


FINALIZERS = """
import gc
class Resource:
    def __init__(self, counter):
        self.me, self.counter = self, counter
    def __del__(self):
        self.counter.labels("finalizer").inc()
        self.counter.labels(f"finalizer {next(numbers)}").inc()
made = 0
for threshold in (3, 5, 7, 11, 13, 17, 23, 29):
    gc.set_threshold(threshold)
    for _ in range(12):
        counter = metrics.counter(f"hearthnet_test_{next(numbers)}_total", "Test.", ["k"])
        counters.append(counter)
        for number in range(60):
            Resource(counter)
            counter.labels(f"main {number}").inc()
            Resource(counter)
            counter.series()
            made += 5
    gc.collect()
"""
SIGNALS = """
import signal, time
handled = 0
def handle(*_):
    global handled
    handled += 1
    counter.labels(f"handler {next(numbers)}").inc()
    histogram.labels(f"handler {next(numbers)}").observe(1)
    gauge.labels(f"handler {next(numbers)}").set_function(lambda: 1)
    counter.inc(-1)  # refused, counted and logged once
    counter.labels("handler").inc()
counter = metrics.counter("hearthnet_test_signals_total", "Test.", ["k"])
histogram = metrics.histogram("hearthnet_test_signals_ms", "Test.", ["k"])
gauge = metrics.gauge("hearthnet_test_signals_level", "Test.", ["k"])
counters.append(counter)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
rounds = 0
ends = time.monotonic() + 60
while handled < 150 and time.monotonic() < ends:
    rounds += 1
    counter.labels(f"main {rounds % 1000}").inc()
    histogram.labels(f"main {rounds % 1000}").observe(1)
    gauge.labels(f"main {rounds % 1000}").inc()
    if rounds % 50 == 0:
        metrics.exposition()
signal.setitimer(signal.ITIMER_REAL, 0)
made = rounds + 2 * handled
"""
AROUND = """
import faulthandler, itertools, logging, sys
from types import SimpleNamespace
from hearthnet.observability import metrics
faulthandler.dump_traceback_later(90, exit=True)
logging.getLogger("hearthnet").addHandler(logging.NullHandler())
metrics.configure(SimpleNamespace(metrics_enabled=True))
numbers, counters = itertools.count(), []
PROGRAM
counted = sum(sample.value for c in counters for _, series in c.series() for sample in series.samples())
print(int(counted), made, len(metrics.exposition()[0]) > 1000)
"""


@pytest.mark.parametrize("program", [FINALIZERS, SIGNALS], ids=["finalizers", "signals"])
def test_series_made_while_this_thread_makes_one(program):
    """A finalizer or a signal handler in the middle of any call counts as well: nothing waits, no count is lost."""
    script = AROUND.replace("PROGRAM", program)
    done = forkserver.run([sys.executable, "-c", script], timeout=120)

    assert done.returncode == 0, done.stderr
    counted, made, is_served = done.stdout.split()
    assert (counted, is_served) == (made, "True")


class Interrupting:
    """A lock in whose middle something else happens once: what a finalizer does wherever it likes."""

    def __init__(self, lock, happen):
        self.lock, self.happen = lock, happen

    def __enter__(self):
        self.lock.__enter__()
        if (happen := self.happen) is not None:
            self.happen = None
            happen()

    def __exit__(self, *error):
        self.lock.__exit__(*error)


def test_same_series_made_in_the_middle_is_one(counter):
    """The series that an interruption made is the one that both count in."""
    counter._lock = Interrupting(counter._lock, lambda: counter.labels("a", "s").inc())
    counter.labels("a", "s").inc()
    making = counter._new

    def interrupted():
        counter._new = making
        counter.labels("b", "s").inc()
        return making()

    counter._new = interrupted
    counter.labels("b", "s").inc()

    assert series(counter.name) == {("a", "s"): 2, ("b", "s"): 2}
    assert counter._undeclared == 2
