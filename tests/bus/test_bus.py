"""The stages of a call: every failure has its code, trace and count, and frees its slot."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest
from support.capabilities import BODY, ME, answer, fails, offer, request, turns

from hearthnet.bus.capability import Health
from hearthnet.errors import WireError
from hearthnet.observability import logging as node_logging
from hearthnet.observability import metrics, trace
from hearthnet.observability.runtime import runtime


async def test_call_is_one_trace_with_a_span_for_each_stage(bus):
    """A successful call is recorded under the caller's id before its response is returned."""

    async def handler(_):
        with trace.span("inner"):
            return {"done": True}

    offer(bus, handler)
    found = await bus.handle_call(request(trace_id="01HXR4Z6W5S9E2JQ4Y0T7B3M1C", caller="ed25519:member"))

    (item,) = trace.get_recent()
    names = {part.id: part.name for part in item.spans}
    assert found == {"done": True}
    assert (item.trace_id, item.capability, item.version, item.result) == (
        "01HXR4Z6W5S9E2JQ4Y0T7B3M1C",
        "experimental.thing",
        "1.0",
        "ok",
    )
    assert [(part.name, names.get(part.parent)) for part in item.spans] == [
        ("find", None),
        ("authorize", None),
        ("validate", None),
        ("admit", None),
        ("handle", None),
        ("inner", "handle"),
        ("check_answer", None),
    ]
    assert item.extras == {"caller": "ed25519:member"}
    assert trace.current_trace() is None


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"name": "experimental.other"}, "not_found"),
        ({"version": (2, 0)}, "not_found"),
        ({"version": (1, 1)}, "not_found"),
        ({"caller": "ed25519:stranger"}, "unauthorized"),
        ({"body": {"params": {}, "input": {}}}, "schema_mismatch"),
    ],
)
async def test_refused_call(bus, wanted, code):
    """Unknown, wrong version, not a member or invalid body: each gets its own code, and no slot is taken."""
    schema = {"properties": {"input": {"required": ["text"]}}}
    entry = offer(bus, answer, request_schema=schema)

    assert (await fails(bus, **wanted)).code == code
    assert entry.running == 0
    assert entry.health.calls == 0


@pytest.mark.parametrize("required", ["member", "trusted", "anchor", "self"])
@pytest.mark.parametrize("level", ["member", "trusted", "anchor", "self"])
async def test_trust_is_a_ladder(bus, required, level):
    """A caller of the required level or higher is admitted."""
    offer(bus, answer, trust_required=required)
    caller = ME if level == "self" else f"ed25519:{level}"
    order = ["member", "trusted", "anchor", "self"]

    if order.index(level) >= order.index(required):
        assert await bus.handle_call(request(caller=caller)) == {"done": True}
    else:
        assert (await fails(bus, caller=caller)).code == "unauthorized"


async def test_full_capability_turns_away(bus):
    """With all slots in use the next call is refused with a time to retry, and counted."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    gate = asyncio.Event()

    async def waiting(_):
        await gate.wait()
        return {}

    offer(bus, waiting, max_concurrent=2)
    running = [asyncio.create_task(bus.handle_call(request())) for _ in range(2)]
    await asyncio.sleep(0)
    error = await fails(bus)
    gate.set()
    await asyncio.gather(*running)

    assert (error.code, error.status, error.retry_after_ms) == ("capacity_exceeded", 429, 1_000)
    assert await bus.handle_call(request()) == {}
    page = metrics.exposition()[0].decode()
    assert 'rate_limited_total{capability="experimental.thing",reason="max_concurrent"} 1.0' in page


async def test_time_limit_of_the_capability_counts_against_it(bus):
    """A handler that exceeds its timeout is stopped; that counts against its health."""
    stopped = []

    async def endless(_):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    entry = offer(bus, endless, timeout_seconds=0.02)

    assert (await fails(bus)).code == "timeout"
    assert stopped == [True]
    assert (entry.running, entry.health.success_rate) == (0, 0.0)


async def test_deadline_of_the_caller_does_not(bus):
    """A deadline shorter than the capability's timeout does not count against its health."""

    async def endless(_):
        await asyncio.Event().wait()

    entry = offer(bus, endless)

    assert (await fails(bus, deadline_ms=20)).code == "timeout"
    assert entry.health.calls == 0


async def test_handler_that_raises_shows_no_internals(bus):
    """The caller only learns that it failed; trace and log have the cause."""

    async def broken(_):
        raise ValueError("the secret path /home/x")

    entry = offer(bus, broken)
    error = await fails(bus)

    assert error.code == "internal_error"
    assert "secret path" not in error.message
    assert trace.get_recent(1)[0].error == "ValueError: the secret path /home/x"
    assert entry.health.success_rate == 0.0


async def test_result_that_the_handler_set_stands(bus):
    """`trace.fail` in a handler takes precedence over the exception that follows."""

    async def explicit(_):
        trace.current_trace().fail("rate_limited", "upstream is busy")
        raise ValueError("gives up")

    offer(bus, explicit)
    with pytest.raises(WireError):
        await bus.handle_call(request())

    assert (trace.get_recent(1)[0].result, trace.get_recent(1)[0].error) == ("rate_limited", "upstream is busy")


@pytest.mark.parametrize("made", [{"wrong": 1}, {"done": {1, 2}}, {"done": 2**70}])
async def test_answer_that_breaks_its_promise_fails(bus, made):
    """A response that does not match its schema, or is not JSON, is an internal error."""

    async def handler(_):
        return made

    offer(bus, handler, response_schema={"required": ["done"]})

    assert (await fails(bus)).code == "internal_error"


async def test_cancelled_call_frees_its_slot(bus):
    """A cancelled call is recorded as cancelled and does not count for health."""

    async def endless(_):
        await asyncio.Event().wait()

    entry = offer(bus, endless)
    task = asyncio.create_task(bus.handle_call(request()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert trace.get_recent(1)[0].result == "cancelled"
    assert (entry.running, entry.health.calls) == (0, 0)


async def test_every_call_is_counted_once(bus):
    """Each outcome is counted once; names that callers invent share one label."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    offer(bus, answer)
    await bus.handle_call(request())
    for name in ("experimental.a", "experimental.b"):
        await fails(bus, name)
    await fails(bus, caller="ed25519:stranger")

    page = metrics.exposition()[0].decode()
    lines = [line for line in page.splitlines() if line.startswith("hearthnet_requests_total{")]
    counts = [line for line in lines if not line.endswith(" 0.0")]  # series of other tests
    assert sorted(counts) == [
        'hearthnet_requests_total{capability="experimental.thing",result="ok"} 1.0',
        'hearthnet_requests_total{capability="experimental.thing",result="unauthorized"} 1.0',
        'hearthnet_requests_total{capability="other",result="not_found"} 2.0',
    ]


async def test_bucket_of_a_call_leads_to_its_trace(bus):
    """Who asks for OpenMetrics finds the trace of the last call in each bucket: of a failed and of a nested one too."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))

    async def outer(_):
        return await bus.call("experimental.inner", "1.0", BODY)

    async def failing(_):
        raise WireError("timeout", "late")

    offer(bus, answer, name="experimental.inner")
    offer(bus, outer, name="experimental.outer")
    offer(bus, failing, name="experimental.failing")
    await bus.handle_call(request("experimental.outer"))
    await fails(bus, "experimental.failing")

    page = metrics.exposition("application/openmetrics-text")[0].decode()
    ids = {
        name: re.search(rf'duration_ms_bucket{{capability="experimental.{name}".* # {{trace_id="(\w+)"', page)[1]
        for name in ("inner", "outer", "failing")
    }
    failed, called = (made.trace_id for made in trace.get_recent(2))
    assert ids == {"inner": called, "outer": called, "failing": failed}


async def test_call_inside_a_trace_is_a_span_of_it(bus):
    """A nested call adds a span, not a trace; both calls are counted."""

    async def outer(_):
        return await bus.call("experimental.inner", "1.0", BODY)

    offer(bus, outer)
    offer(bus, answer, name="experimental.inner")
    assert await bus.handle_call(request()) == {"done": True}

    (item,) = trace.get_recent()
    (call,) = [part for part in item.spans if part.name == "call"]
    below = [part.name for part in item.spans if part.parent == call.id]
    assert call.extras == {"capability": "experimental.inner", "version": "1.0", "result": "ok"}
    assert below == ["find", "authorize", "validate", "admit", "handle", "check_answer"]


async def test_call_outside_a_trace_is_one_of_its_own(bus):
    """A call from a task whose trace has ended gets its own trace."""
    offer(bus, answer)
    gate = asyncio.Event()

    async def later():
        await gate.wait()
        return await bus.call("experimental.thing", "1.0", BODY)

    with trace.new_trace("experimental.short"):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    gate.set()
    assert await task == {"done": True}

    assert [item.capability for item in trace.get_recent()] == ["experimental.thing", "experimental.short"]


async def test_failing_entry_is_quarantined(bus):
    """From twenty calls on, a capability that mostly fails returns `partition` without being run."""
    calls = []

    async def broken(_):
        calls.append(1)
        raise ValueError("always")

    offer(bus, broken)
    for _ in range(20):
        await fails(bus)
    error = await fails(bus)

    assert (error.code, error.status) == ("partition", 503)
    assert error.retry_after_ms > 50_000
    assert len(calls) == 20


async def test_simulated_failure_does_not_count_for_health(bus):
    """Errors caused by the caller do not count for health."""

    async def obliging(_):
        raise WireError("internal_error", "simulated failure", asked_for=True)

    async def picky(_):
        raise WireError("bad_request", "not like this")

    asked, picked = offer(bus, obliging), offer(bus, picky, name="experimental.picky")
    await fails(bus)
    await fails(bus, "experimental.picky")

    assert asked.health.calls == picked.health.calls == 0


# --- what health may and may not learn from a call


class Clock:
    """A monotonic clock in seconds, advanced by the test."""

    now = 1_000.0

    def __call__(self) -> float:
        """Returns the time."""
        return self.now


async def test_only_the_probe_decides(bus):
    """A call admitted before the quarantine, ending during the probe, neither lifts it nor admits another call."""
    gates = {}

    async def gated(wanted):
        name = wanted.body["input"]["text"]
        if name == "fail":
            raise ValueError("always")
        await gates.setdefault(name, asyncio.Event()).wait()
        return {}

    entry = offer(bus, gated, max_concurrent=10)
    entry.health = Health(clock := Clock())
    old = asyncio.create_task(bus.handle_call(request(body={"input": {"text": "old"}})))
    await turns()
    for _ in range(20):
        await fails(bus, body={"input": {"text": "fail"}})
    clock.now += 61
    probe = asyncio.create_task(bus.handle_call(request(body={"input": {"text": "probe"}})))
    await turns()
    assert entry.running == 2
    gates["old"].set()
    await old

    assert entry.health.is_quarantined
    assert (await fails(bus, body={"input": {"text": "fail"}})).code == "partition"
    gates["probe"].set()
    await probe
    assert not entry.health.is_quarantined


async def test_call_given_up_during_the_probe_leaves_the_probe_alone(bus):
    """A cancelled call from before the quarantine does not turn a second call into the probe."""

    async def gated(wanted):
        if wanted.body["input"]["text"] == "fail":
            raise ValueError("always")
        await asyncio.Event().wait()

    entry = offer(bus, gated, max_concurrent=10)
    entry.health = Health(clock := Clock())
    waiting = {"input": {"text": "wait"}}
    old = asyncio.create_task(bus.handle_call(request(body=waiting)))
    await turns()
    for _ in range(20):
        await fails(bus, body={"input": {"text": "fail"}})
    clock.now += 61
    probe = asyncio.create_task(bus.handle_call(request(body=waiting)))
    await turns()
    old.cancel()
    await asyncio.gather(old, return_exceptions=True)

    assert (await fails(bus, body={"input": {"text": "fail"}})).code == "partition"
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert entry.running == 0


async def test_quarantine_ends_with_a_good_probe(bus):
    """After the quarantine one call is admitted, and its success ends the quarantine."""
    well = False

    async def moody(_):
        if not well:
            raise ValueError("not today")
        return {}

    entry = offer(bus, moody)
    entry.health = Health(clock := Clock())
    for _ in range(20):
        await fails(bus)
    assert (await fails(bus)).code == "partition"
    clock.now += 61
    assert (await fails(bus)).code == "internal_error"
    assert (await fails(bus)).code == "partition"
    clock.now += 61
    well = True

    assert [await bus.handle_call(request()) for _ in range(3)] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("code", "counts"),
    [
        ("bad_request", False),
        ("not_found", False),
        ("unauthorized", False),
        ("rate_limited", False),
        ("timeout", True),
        ("internal_error", True),
        ("not_implemented", True),
        ("partition", True),
    ],
)
async def test_codes_that_count_against_the_capability(bus, code, counts):
    """Errors caused by the caller do not count for health; failures of the node do."""

    async def failing(_):
        raise WireError(code, "so it is")

    entry = offer(bus, failing)
    assert (await fails(bus)).code == code

    assert entry.health.calls == (1 if counts else 0)


async def test_handlers_own_timeout_is_a_timeout(bus):
    """A handler's own TimeoutError becomes `timeout`, without internals."""

    async def impatient(_):
        raise TimeoutError("connecting to 10.0.0.7")

    entry = offer(bus, impatient)
    error = await fails(bus)

    assert (error.code, entry.health.success_rate) == ("timeout", 0.0)
    assert "10.0.0.7" not in error.message


# --- how handlers break


@pytest.mark.parametrize("made", [None, [], "text", 5, object()], ids=["none", "list", "text", "number", "object"])
async def test_answer_that_is_neither_object_nor_frames_fails(bus, made):
    """The call fails at once with an internal error: there is no stream to wait for."""

    async def handler(_):
        return made

    entry = offer(bus, handler)

    assert (await fails(bus)).code == "internal_error"
    assert (entry.running, entry.health.success_rate) == (0, 0.0)


async def test_cause_of_a_failure_is_in_the_log(bus):
    """The log has the error that the caller does not see, with traceback and the call's id."""
    node_logging.install_sinks(SimpleNamespace(log_level="info", log_dir=None, keep_debug_of_failures=False))

    async def broken(_):
        raise ValueError("the secret path /home/x")

    offer(bus, broken)
    await fails(bus)

    (failed,) = trace.get_recent(1)
    (logged,) = [item for item in runtime.recorder.pending_logs() if item.msg == "capability failed"]
    assert (logged.level, logged.trace_id) == ("error", failed.trace_id)
    assert "the secret path /home/x" in logged.exc


async def test_handler_that_raises_before_it_awaits_frees_its_slot(bus):
    """A failing plain function is treated like a failing coroutine."""

    def broken(_):
        raise ValueError("at once")

    entry = offer(bus, broken)

    assert (await fails(bus)).code == "internal_error"
    assert entry.running == 0


async def test_failed_call_inside_a_trace_marks_its_span(bus):
    """The span has the inner failure; the outer capability may still succeed."""

    async def outer(_):
        with pytest.raises(WireError):
            await bus.call("experimental.inner", "1.0", BODY)
        return {}

    async def broken(_):
        raise ValueError("inside")

    offer(bus, outer)
    inner = offer(bus, broken, name="experimental.inner")
    assert await bus.handle_call(request()) == {}

    (item,) = trace.get_recent()
    (call,) = [part for part in item.spans if part.name == "call"]
    assert (item.result, call.status, call.extras["result"]) == ("ok", "error", "internal_error")
    assert (inner.running, inner.health.success_rate) == (0, 0.0)


async def test_failed_call_does_not_end_its_callers_trace(bus):
    """The caller's trace continues after a failed call in it, with no span of the call left open."""
    with trace.new_trace("experimental.outer") as mine:
        with pytest.raises(WireError):
            await bus.call("experimental.absent", "1.0", BODY)
        assert trace.current_trace() is mine
        with trace.span("after") as after:
            pass

    assert after.parent is None
    assert [item.result for item in trace.get_recent()] == ["ok"]


async def test_request_from_inside_a_trace_returns_to_it(bus):
    """A request handled inside a trace gets its own trace; afterwards the outer one is current again."""
    offer(bus, answer)
    with trace.new_trace("experimental.outer") as mine:
        await bus.handle_call(request())
        with pytest.raises(WireError):
            await bus.handle_call(request("experimental.absent"))
        assert trace.current_trace() is mine

    assert [item.capability for item in trace.get_recent()] == [
        "experimental.outer",
        "experimental.absent",
        "experimental.thing",
    ]


async def test_stats_have_each_entry(bus):
    """Running calls, health and latency by entry."""
    gate = asyncio.Event()

    async def waiting(wanted):
        if wanted.body["input"]["text"] == "wait":
            await gate.wait()
        return {}

    offer(bus, waiting, max_concurrent=2)
    await bus.handle_call(request())
    task = asyncio.create_task(bus.handle_call(request(body={"input": {"text": "wait"}})))
    await turns()
    (stats,) = bus.stats()
    gate.set()
    await task

    assert (stats["capability"], stats["version"], stats["max_concurrent"]) == ("experimental.thing", "1.0", 2)
    assert (stats["running"], stats["calls"], stats["success_rate"], stats["quarantined"]) == (1, 1, 1.0, False)
    assert 0 <= stats["p50_ms"] <= stats["p99_ms"]
