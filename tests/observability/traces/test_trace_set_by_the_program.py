"""What a program sets on traces and spans itself is recorded as what it passes; and an interrupted end, once."""

from __future__ import annotations

import orjson
import pytest
from support.waiting import wait_until

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
from hearthnet.observability.runtime import runtime

SECRET = "hunter2xyzzy9longer-Q8zP"


@pytest.fixture
def store(tmp_path):
    """Opens a store."""
    config = ObservabilityConfig(data_dir=tmp_path, log_dir=tmp_path)
    with telemetry.open(config, console="off") as opened:
        yield opened


def recorded():
    """The newest trace, as it is stored."""
    return orjson.dumps(trace.get_recent(1)[0].as_dict()).decode()


@pytest.mark.parametrize("attribute", ["name", "status"])
@pytest.mark.parametrize("is_slow_way", [False, True])
def test_secret_that_is_set_on_a_span_is_redacted(store, attribute, is_slow_way):
    """On both ways into the buffer."""
    with trace.trace("work") as begun:
        with trace.span("step") as step:
            setattr(step, attribute, f"password={SECRET}")
        if is_slow_way:
            begun.fail("internal_error")

    assert SECRET not in recorded()
    assert "[redacted]" in recorded()


@pytest.mark.parametrize("result", ["ok", "internal_error"])
def test_secret_that_is_set_as_the_error_is_redacted(store, result):
    """Whatever the result."""
    with trace.trace("work") as begun:
        begun.result = result
        begun.error = f"password={SECRET}"

    assert SECRET not in recorded()
    assert trace.get_recent(1)[0].error == "password=[redacted]"


@pytest.mark.parametrize("attribute", ["version", "parent_id", "capability", "trace_id"])
def test_trace_that_no_row_can_take_does_not_stop_the_others(store, attribute):
    """It looks like the spans in a frame, too."""
    with trace.trace("odd") as begun:
        setattr(begun, attribute, [{"id": "x"}])
    with trace.trace("after"):
        pass

    # Read by others of this process while it waits, then by the writer.
    assert "after" in [one.capability for one in trace.get_recent(10)]
    wait_until(lambda: not runtime.recorder.pending_numbers(), runtime.recorder.pending_numbers)
    assert [one.capability for one in trace.get_recent(10)] == ["after"]


def test_error_of_any_kind_is_text(store):
    """A validation library's list of errors, say."""
    with trace.trace("work") as begun:
        begun.error = [{"id": "x"}]

    assert trace.get_recent(1)[0].error == "[{'id': 'x'}]"


@pytest.mark.parametrize("raised", [RecursionError, TimeoutError, OSError])
def test_exception_behind_the_buffer_records_nothing_twice(store, monkeypatch, raised):
    """As of a signal handler that raises, or a stack that ends there."""

    def wake(*_):
        raise raised

    recorder = runtime.recorder
    with monkeypatch.context() as patched:
        patched.setattr(recorder, "wake", wake)
        recorder.is_idle = True
        with trace.trace("work"):
            pass
        numbers = recorder.pending_numbers()

    assert len(numbers) == 1
    assert [one.capability for one in trace.get_recent(10)] == ["work"]
