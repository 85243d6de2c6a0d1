"""Fields of a context: where they appear, whose value counts, how they follow the work, and what they may hold."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import logging.handlers
import pickle
import queue
import threading

import orjson
import pytest
from support.reading import log_lines

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.logs.context_fields import context_fields, current_fields, with_fields
from hearthnet.observability.logs.fields import fields
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces.propagation import ContextExecutor, carry

NAME = "hearthnet.test_fields"
OWN = {"ts", "level", "logger", "msg", "trace_id", "span_id"}


class Silent(logging.Handler):
    """Another handler: records go the standard way when it is attached."""

    def emit(self, record):
        """Takes a record."""


@pytest.fixture(params=["ours alone", "another beside"])
def said(request, tmp_path, monkeypatch):
    """Logging configured, alone or beside another handler; returns a reader of the fields of each line."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, log_level="debug"))
    others = [Silent()] if request.param == "another beside" else []
    monkeypatch.setattr(logging.root, "handlers", [runtime.handler, *others])
    return lambda: [{key: line[key] for key in line if key not in OWN} for line in log_lines(tmp_path)]


@pytest.fixture(params=[NAME, "somelib.test_fields"])
def log(request):
    """A logger of ours, or of another library."""
    return get_logger(NAME) if request.param == NAME else logging.getLogger(request.param)


def test_records_inside_have_them(said, log):
    """Of our loggers and of other libraries'; not before, and not after."""
    log.warning("before")
    with fields(job="nightly", n=2) as block:
        log.warning("inside")
        assert isinstance(block, fields)
    log.warning("after")

    assert said() == [{}, {"job": "nightly", "n": 2}, {}]


def test_blocks_nest(said, log):
    """An inner block adds, and replaces; the outer one is back behind it."""
    with fields(a=1, b=1):
        with fields(b=2, c=2):
            log.warning("inner")
        log.warning("outer")

    assert said() == [{"a": 1, "b": 2, "c": 2}, {"a": 1, "b": 1}]


def test_nearest_counts(said):
    """The call's own field, then the bound logger's, then the context's."""
    log = get_logger(NAME).bind(b="bound", c="bound")
    with fields(a="context", b="context", c="context"):
        log.warning("m", extra={"c": "own"})

    assert said() == [{"a": "context", "b": "bound", "c": "own"}]


def test_field_of_another_librarys_call_is_its_own(said):
    """Nothing raises there, as the standard library does for a name that a record has already."""
    with fields(job="context"):
        logging.getLogger("somelib.test_fields").warning("m", extra={"job": "own"})

    assert said() == [{"job": "own"}]


def test_names_of_the_line_are_renamed(said, log):
    """As in `extra`; also those of a record's own attributes."""
    with fields(ts=1, msg="m", name="n", args=3, self=4, extra=5):
        log.warning("m")

    assert said() == [{"x_ts": 1, "x_msg": "m", "name": "n", "args": 3, "self": 4, "extra": 5}]


def test_they_leave_with_an_exception(said, log):
    """Which passes."""
    with pytest.raises(KeyError), fields(a=1):
        raise KeyError
    log.warning("after")

    assert said() == [{}]


def test_one_object_serves_many_blocks(said, log):
    """Nested, and one after the other."""
    block = fields(a=1)
    with block:
        with block:
            log.warning("m")
        log.warning("m")
    log.warning("m")
    with block:
        log.warning("m")

    assert said() == [{"a": 1}, {"a": 1}, {}, {"a": 1}]


async def test_tasks_have_them(said, log):
    """Each those of its own context, however tasks take turns."""

    async def work(number):
        with fields(number=number):
            await asyncio.sleep(0)
            async with fields(step=1):
                await asyncio.sleep(0)
                log.warning("m")

    with fields(job="nightly"):
        await asyncio.gather(*map(work, range(3)))
        await asyncio.to_thread(log.warning, "in a thread")

    expected = [{"job": "nightly", "number": number, "step": 1} for number in range(3)]
    assert sorted(said()[:3], key=lambda line: line["number"]) == expected
    assert said()[3] == {"job": "nightly"}


async def test_one_object_in_several_tasks(said, log):
    """Each task leaves its own block."""
    block = fields(a=1)

    async def work(steps):
        with block:
            for _ in range(steps):
                await asyncio.sleep(0)
        log.warning("after")

    await asyncio.gather(work(3), work(1), work(2))

    assert said() == [{}] * 3


def test_threads_have_them_by_carry(said, log):
    """A plain thread starts without; one that is given its work by `carry`, and a `ContextExecutor`, with."""
    with fields(a=1):
        for target in (log.warning, carry(log.warning)):
            thread = threading.Thread(target=target, args=("m",))
            thread.start()
            thread.join()
        with ContextExecutor(1) as pool:
            pool.submit(log.warning, "m").result()

    assert said() == [{}, {"a": 1}, {"a": 1}]


def test_block_left_in_another_context_changes_nothing_there(said, log):
    """A framework may leave a block in a task of its own."""
    block = fields(a=1)
    contextvars.copy_context().run(block.__enter__)
    with fields(b=2):
        block.__exit__(None, None, None)
        log.warning("m")

    assert said() == [{"b": 2}]


def test_record_has_those_of_its_call_behind_a_queue(tmp_path):
    """Not those of the thread that handles it."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    waiting: queue.Queue = queue.Queue()
    passing = logging.handlers.QueueHandler(waiting)
    logger = logging.getLogger("somelib.test_fields")
    logger.addHandler(passing)
    logger.propagate = False
    try:
        with fields(a=1):
            logger.warning("m")
        record = waiting.get()
        with fields(a=2, b=2):
            runtime.handler.handle(pickle.loads(pickle.dumps(record)))
    finally:
        logger.removeHandler(passing)
        logger.propagate = True

    assert [line.get("a") for line in log_lines(tmp_path)] == [1]
    assert "b" not in log_lines(tmp_path)[0]


def test_filter_may_remove_one(said):
    """It stays removed: it is a field of the record like any other."""
    log = get_logger(NAME)

    def remove(record):
        record.__dict__.pop("email", None)
        return True

    log.addFilter(remove)
    try:
        with fields(email="ann@example.org", n=1):
            log.warning("m")
    finally:
        log.removeFilter(remove)

    assert said() == [{"n": 1}]


def test_values_are_those_of_the_beginning(said, log):
    """A list that grows, or an object that changes, does not change the records."""
    items = [1]
    with fields(items=items):
        items.append(2)
        log.warning("m")

    assert said() == [{"items": [1]}]


def test_secrets_are_replaced_in_all_of_the_record(said):
    """Under a secret's name, and where else the record has the same text."""
    with fields(password="hunter2hunter2", header=["Cookie", "a=b1c2d3e4f5"]):
        get_logger(NAME).warning("logged in with hunter2hunter2")

    (line,) = said()
    assert line["password"] == "[redacted]"
    assert line["header"] == ["Cookie", "[redacted]"]
    assert runtime.recorder.pending_logs()[-1].msg == "logged in with [redacted]"


class Hostile:
    """Raises whatever is done with it."""

    def __str__(self):
        raise RuntimeError("str")

    __repr__ = __str__

    def __iter__(self):
        raise RuntimeError("iter")


@pytest.mark.parametrize("value", [Hostile(), float("nan"), 1 << 80, "\ud800", b"\xff", [[[[[[[[1]]]]]]]], object()])
def test_any_value_can_be_kept(said, log, value):
    """Nothing raises into the program, and the record is there."""
    with fields(value=value):
        log.warning("m")

    assert list(said()[0]) == ["value"]


def test_large_values_are_bounded(said, log):
    """Once, when they are given."""
    with fields(text="x" * 1_000_000):
        assert len(context_fields.get().values["text"]) < 10_000
        log.warning("m")

    assert said()[0]["text"].startswith("xxx")


def test_traces_that_begin_inside_have_them():
    """Whoever begins them; a trace that began before does not."""
    with trace.new_trace("outer"), fields(job="nightly"), trace.new_trace("inner"):
        pass

    inner, outer = trace.get_recent(2)[::-1]
    assert (inner.capability, inner.extras) == ("inner", {"job": "nightly"})
    assert (outer.capability, outer.extras) == ("outer", {})


def test_secret_of_a_trace_is_replaced():
    """As in its own extras."""
    with fields(password="hunter2hunter2"), trace.new_trace("a.b"):
        pass

    assert trace.get_recent(1)[0].extras == {"password": "[redacted]"}


def test_debug_records_that_a_trace_keeps_have_them(tmp_path):
    """They are made in the context of the call, though stored at the end."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path, keep_debug_of_failures=True))
    with trace.new_trace("a.b") as begun, fields(a=1):
        get_logger(NAME).debug("below", extra={"b": 2})
        get_logger(NAME).bind(c=3).debug("below")
        begun.fail("timeout")

    kept = [orjson.loads(row.extras) for row in runtime.recorder.pending_logs() if row.msg == "below"]
    assert kept == [{"a": 1, "b": 2}, {"a": 1, "c": 3}]


def test_extra_that_is_no_mapping_is_kept(said):
    """The context's fields give way to it."""
    with fields(a=1):
        get_logger(NAME).warning("m", extra=[1, 2])

    assert said()[0]["extra"] == [1, 2]


def test_forgotten_generator_leaves_its_block(said):
    """Whenever the collector ends it, and wherever: nothing of it stays in the context."""

    def generate():
        with fields(a=1):
            yield

    for _ in range(3):
        running = generate()
        next(running)
        cycle = [running]
        cycle.append(cycle)
        del running, cycle
        gc.collect()

    with fields(b=2):
        log = get_logger(NAME)
        assert current_fields().values == with_fields(None) == {"b": 2}
        log.warning("m")

    assert current_fields() is None
    assert orjson.loads(runtime.recorder.pending_logs()[-1].extras) == {"b": 2}


@pytest.mark.parametrize("value", [{"items": [1]}, [1, {"a": 1}], {"password": "hunter2hunter2", "of": [1]}])
def test_traces_have_their_own_values(value):
    """What the program adds to one is not in the next."""
    with fields(order=value):
        with trace.new_trace("first") as first:
            order = first.extras["order"]
            (order if type(order) is list else order[[*order][-1]]).append("added")
        with trace.new_trace("second"):
            pass

    assert ["added" in str(one.extras) for one in reversed(trace.get_recent(2))] == [True, False]
