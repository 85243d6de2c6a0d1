"""Where a log record belongs: to the trace that is running, or to none, if its work has outlived its trace."""

from __future__ import annotations

import asyncio
import logging
import threading

import orjson
import pytest
from support.reading import log_lines, rows

from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.logging import JsonFormatter
from hearthnet.observability.logs.messages import place
from hearthnet.observability.telemetry import DATABASE
from hearthnet.observability.traces.propagation import carry

log = get_logger("hearthnet.test.place")


@pytest.fixture
def store(observability):
    """An open store; returns the ids of each record of this logger: in the JSON log, and the same in its row."""

    def read():
        opened.flush()
        lines = [line for line in log_lines(observability.log_dir) if line["logger"].startswith(log.name)]
        stored = rows(
            observability.data_dir / DATABASE,
            "SELECT msg, trace_id, span_id, extras ->> 'after_trace' FROM logs WHERE logger LIKE ? ORDER BY seq",
            f"{log.name}%",
        )
        found = [(line["msg"], line.get("trace_id"), line.get("span_id"), line.get("after_trace")) for line in lines]
        assert found == stored
        return {msg: (trace_id, span_id, after) for msg, trace_id, span_id, after in stored}

    with telemetry.open(observability) as opened:
        yield read


async def test_worker_that_a_request_has_started(store):
    """A worker born in the first request serves later ones: its records are theirs in name only, and so marked."""
    jobs: asyncio.Queue = asyncio.Queue()

    async def worker():
        while (job := await jobs.get()) is not None:
            log.info(job)
            jobs.task_done()

    tasks = []
    requests = []
    for number in range(3):
        with trace.new_trace("a.b") as started:
            requests.append(started.trace_id)
            if not tasks:
                tasks.append(asyncio.create_task(worker()))
            jobs.put_nowait(f"job {number}")
            await jobs.join()
    jobs.put_nowait(None)
    await tasks[0]

    assert store() == {
        "job 0": (requests[0], None, None),
        "job 1": (None, None, requests[0]),
        "job 2": (None, None, requests[0]),
    }


async def test_work_after_the_end_is_marked(store):
    """A timer, a carried function, a thread, a task that goes on, and a context that is kept."""
    loop = asyncio.get_running_loop()
    called, ended = asyncio.Event(), asyncio.Event()

    async def go_on():
        log.info("task, before")
        await ended.wait()
        log.info("task, after")

    with trace.new_trace("a.b") as started, trace.span("step") as step:
        span_id = step.id
        loop.call_later(0, lambda: (log.info("timer"), called.set()))
        carried = carry(log.info)
        thread = threading.Thread(target=carry(log.info), args=("thread",))
        task = asyncio.create_task(go_on())
        await asyncio.sleep(0)
        carried("carried, before")
        started.end()
    ended.set()
    await called.wait()
    await task
    carried("carried, after")
    thread.start()
    thread.join()
    log.info("outside")

    inside, after = (started.trace_id, span_id, None), (None, None, started.trace_id)
    assert store() == {
        "task, before": inside, "carried, before": inside, "timer": store()["timer"], "task, after": after,
        "carried, after": after, "thread": after, "outside": (None, None, None),
    }  # fmt: skip
    assert store()["timer"] in (inside, after)


async def test_task_that_outlives_its_span_alone(store):
    """Within the trace, after the span: the record belongs to the trace, and to no span."""
    may_go_on = asyncio.Event()

    async def go_on():
        await may_go_on.wait()
        log.info("late")

    with trace.new_trace("a.b") as started:
        with trace.span("step"):
            task = asyncio.create_task(go_on())
        may_go_on.set()
        await task

    assert store() == {"late": (started.trace_id, None, None)}


def test_trace_within_a_trace(store):
    """What outlives the inner trace is marked with that one, though the outer one still runs."""
    with trace.new_trace("outer.call") as outer:
        with trace.new_trace("inner.call") as inner:
            carried = carry(log.info)
        carried("of the inner one")
        log.info("of the outer one")

    assert store() == {
        "of the inner one": (None, None, inner.trace_id),
        "of the outer one": (outer.trace_id, None, None),
    }


def test_no_trace_is_attached(store):
    """`attach(None)` marks nothing."""
    with trace.new_trace("a.b"):
        trace.attach(None)
        log.info("of none")
        trace.detach()

    assert store() == {"of none": (None, None, None)}


def test_fields_of_that_name_and_large_ones(store, observability):
    """A field of the program's called `after_trace` is renamed; the mark is kept where fields are cut."""
    with trace.new_trace("a.b", trace_id="01HXR4Z6W5S9E2JQ4Y0T7B3M1C") as started:
        carried = carry(log.warning)
        log.warning("within", extra={"after_trace": "mine"})
    carried("large", extra={f"k{number}": "x" * 2_000 for number in range(60)})
    carried("plain", extra={"after_trace": 5, "n": 1})

    ids = store()
    assert ids["large"] == ids["plain"] == (None, None, started.trace_id)
    by_text = {line["msg"]: line for line in log_lines(observability.log_dir)}
    assert by_text["within"]["x_after_trace"] == "mine"
    assert list(by_text["plain"]) == ["ts", "level", "logger", "msg", "after_trace", "x_after_trace", "n"]


def test_done_line_belongs_to_its_trace(observability):
    """Written after the end, to our file and by another's handler: it has the trace's id and no mark."""
    texts = []

    class Other(logging.Handler):
        def emit(self, record):
            texts.append(orjson.loads(JsonFormatter().format(record)))
            assert trace.current_trace() is None  # nothing can be added any more

    with telemetry.open(observability):
        with trace.new_trace("a.one") as first:
            pass
        other = Other()
        logging.getLogger().addHandler(other)
        try:
            with trace.new_trace("a.two") as second:
                pass
        finally:
            logging.getLogger().removeHandler(other)

    done = [line for line in log_lines(observability.log_dir) if line["msg"] == "done"]
    assert [line["trace_id"] for line in done] == [first.trace_id, second.trace_id]
    assert [line["trace_id"] for line in texts] == [second.trace_id]
    assert not any("after_trace" in line for line in done + texts)


def test_place_during_the_life_of_a_trace():
    """Ids while it runs, the mark after it, nothing where it never was."""
    assert place() == (None, None, None)
    started = trace.new_trace("a.b")
    with trace.span("step") as step:
        assert place() == (started.trace_id, step.id, None)
        started.end()
        assert place() == (None, None, started.trace_id)
    trace.detach()
    assert place() == (None, None, None)
