"""The runtime: what a forked child renews, and what a reset puts back."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from hearthnet.observability import get_logger, metrics, telemetry, trace
from hearthnet.observability.logs import messages
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.runtime import SLOW_MS, runtime


def in_child(check) -> int:
    """Forks, runs `check` in the child, and returns its exit code: 0 if that returned True."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("name", ["lock", "config_lock", "open_lock"])
def test_child_gets_free_locks(name):
    """A lock that another thread held at the fork is free in the child."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with getattr(runtime, name), runtime.redaction.lock:
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    code = in_child(lambda: getattr(runtime, name).acquire(timeout=5) and runtime.redaction.lock.acquire(timeout=5))
    done.set()
    holder.join()

    assert code == 0


def test_child_records_for_itself(observability):
    """A child has its own recorder, run and ids, no telemetry before it records, and its parent's settings."""
    with telemetry.open(observability.model_copy(update={"slow_ms": 7.0})):
        run_id, box = runtime.recorder.run_id, runtime.recorder.box
        tail = new_trace_id()[10:22]

        code = in_child(
            lambda: (
                telemetry.opened() is None
                and runtime.recorder.run_id != run_id
                and telemetry.opened() is not None
                and runtime.recorder.box is not None
                and runtime.recorder.box is not box
                and trace.get_recent() == []
                and new_trace_id()[10:22] != tail
                and (runtime.slow_ms, runtime.registry is None) == (7.0, metrics.disabled())
            )
        )

        assert code == 0
        assert runtime.recorder.run_id == run_id


def test_reset_is_as_after_import(observability):
    """Whatever was configured, recorded or left open, a reset puts it back."""
    t = telemetry.open(observability.model_copy(update={"slow_ms": 7.0, "log_level": "debug"}))
    t.start()
    trace.new_trace("left.open")
    get_logger("hearthnet.test").warning("something")
    runtime.hook_failures = 3

    runtime.reset()

    assert telemetry.opened() is None
    assert (runtime.handler, runtime.registry, runtime.recent, runtime.recorder.box) == (None, None, None, None)
    assert (runtime.slow_ms, runtime.hook_failures, runtime.keep_debug) == (SLOW_MS, 0, False)
    assert logging.getLogger("hearthnet").level == logging.NOTSET
    assert trace.current_trace() is None
    assert trace.get_recent() == runtime.recorder.pending_logs() == []
    assert not messages.is_any_dropped()
    t.close()  # once more does nothing
