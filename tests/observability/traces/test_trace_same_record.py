"""A trace that is recorded in one go and one that is recorded in parts say the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import copy_context
from itertools import count

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthnet.forensics import box as layout
from hearthnet.observability import trace
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.record import fields_of
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.rows import TRACES
from hearthnet.observability.traces import begin
from hearthnet.observability.traces import span as spans
from hearthnet.observability.traces import trace as traces

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
MARK = ',[{"id":"'  # how spans begin in a frame
# Also hostile: what tells a secret, what cannot be encoded, and what looks like the parts of a frame.
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from([MARK, "}],{", "],{", ",[],{}]", "password=tiger1234", "tiger1234", "\ud800", "é" * 9]),
    st.just([1, [{"id": "x"}]]),
)
EXTRAS = st.dictionaries(st.sampled_from(["model", "size", "password", "note", MARK]), VALUES, max_size=3)
NAMES = st.sampled_from(["fetch", "rank", "x" * 200, MARK, "é", "\ud800"])


class OddError(Exception):
    """Leaves a span."""


@st.composite
def programs(draw, depth=3):
    """Steps of a program: spans with steps of their own, tasks side by side, and errors."""
    kinds = ["span", "span", "raise", *ODD] + ["tasks"] * (depth == 3)
    steps = []
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=3)):
        inner = draw(programs(depth=depth - 1)) if depth else []
        steps.append((kind, draw(NAMES), draw(EXTRAS), draw(EXTRAS), inner))
    return steps


async def run(steps):
    """Runs the steps of a program."""
    for kind, name, extras, later, inner in steps:
        if kind == "raise":
            raise OddError(name)
        if kind == "tasks":
            await asyncio.gather(run(inner), run(inner), return_exceptions=True)
        elif kind in ODD:
            await ODD[kind](trace.span(name, **extras), name, inner)
        else:
            with trace.span(name, **extras) as opened:
                await run(inner)
                opened.extras.update(later)


async def leave_open(span, *_):
    """Opens a span that nothing closes."""
    span.__enter__()


async def attach(_, __, inner):
    """Works in the same trace again."""
    trace.attach(trace.current_trace())
    await run(inner)
    trace.detach()


async def detach_early(*_):
    """Ends the trace, or leaves another context's."""
    trace.detach()


async def change(span, name, _):
    """Sets what a span sets by itself."""
    with span:
        span.status = span.name = name


async def close_elsewhere(span, *_):
    """Closes a span in another context."""
    span.__enter__()
    copy_context().run(span.__exit__, None, None, None)


async def open_again(span, _, inner):
    """Opens the same object inside itself."""
    with span, suppress(OddError), span:
        await run(inner)


ODD = {
    "leave open": leave_open, "attach": attach, "detach": detach_early, "change": change, "elsewhere": close_elsewhere,
    "again": open_again,
}  # fmt: skip


def recorded(program, own, monkeypatch, *, in_parts):
    """Returns the record of a program, from the buffer and from the box; ids and times are counted ones."""
    ticks, numbers = count(1_000, 1_000_000), count(1)
    with monkeypatch.context() as patched:
        for module in (begin, traces, spans):
            patched.setattr(module, "monotonic_ns", lambda: next(ticks))
        patched.setattr(begin, "time_ns", lambda: 1_790_000_000_000_000_000)
        patched.setattr(spans.id_source, "span_ids", (f"{number:016x}" for number in numbers))
        if in_parts:  # as of a trace with a secret told, or without a box
            patched.setattr(traces.Trace, "_record_whole", lambda *_: 0)
        with suppress(OddError), trace.new_trace("a.b@1", trace_id=RUN, parent_id="caller") as made:
            made.extras.update(own)
            asyncio.run(run(program))
    kept = runtime.recorder.traces.snapshot()[-1]
    newest = fields_of(kept)
    assert TRACES.values_of(kept, 7) == TRACES.values_of(newest, 7)
    assert TRACES.with_seq(kept, 7) == (7, *newest[1:])
    frame = runtime.recorder.box.contents().traces[-1]
    seen = made.as_dict()
    seen.pop("number")
    return newest[:2] + newest[3:], orjson.loads(frame.payload)[1:], seen


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """One with a box, and no writer."""
    header = new_header(layout.NODE, RUN, "1", None, Sizes(64_000, 4_096))
    box = BlackBox(tmp_path_factory.mktemp("box") / "telemetry.1.box2", header)
    made = Recorder(RUN)
    made.box = box
    yield made
    box.close(remove=True)


@settings(max_examples=40, deadline=None)
@given(program=programs(), own=EXTRAS)
def test_both_ways_give_the_same_record(recorder, program, own):
    """Any program of spans, tasks, errors and extras leaves the same row, frame and object, whichever way it takes."""
    runtime.install(recorder)
    monkeypatch = pytest.MonkeyPatch()
    whole = recorded(program, own, monkeypatch, in_parts=False)
    parts = recorded(program, own, monkeypatch, in_parts=True)

    assert whole == parts


def test_an_ordinary_trace_takes_the_short_way(recorder):
    """It stays in the buffer as the very frame that the box has; one that failed stays as its fields."""
    runtime.install(recorder)
    with trace.new_trace("a.b") as made, trace.span("fetch", model="tiny"):
        made.extras["caller"] = MARK
    kept = recorder.traces.snapshot()[-1]

    with suppress(OddError), trace.new_trace("a.b"):
        raise OddError

    assert type(kept[-1]) is bytes
    assert kept[-1] in recorder.box.traces.memory[:]
    fields = TraceRecord._make(fields_of(kept))
    assert (fields.run_id, fields.number, fields.extras) == (
        RUN,
        made.as_dict()["number"],
        orjson.dumps({"caller": MARK}),
    )
    assert orjson.loads(fields.spans)[0]["extras"] == {"model": "tiny"}
    assert len(recorder.traces.snapshot()[-1]) == len(TraceRecord._fields)


@pytest.mark.parametrize("extras", [{}, {"a": MARK}, {"a": ",[],"}, {"a": [1, [{"id": "x"}]]}])
def test_a_frame_without_spans_is_read(recorder, extras):
    """The place of the extras is known by their length, whatever they hold."""
    runtime.install(recorder)
    with trace.new_trace("a.b") as made:
        made.extras.update(extras)

    fields = recorder.pending_traces()[-1]
    assert (fields.spans, orjson.loads(fields.extras)) == (b"[]", extras)


def test_a_trace_too_large_for_one_go_keeps_its_number(recorder):
    """It is cut to a row by the other way, and no number is left out between it and the next."""
    runtime.install(recorder)
    with trace.new_trace("a.b"):
        for at in range(200):
            with trace.span("step", text="x" * 100, at=at):
                pass
    with trace.new_trace("a.b"):
        pass

    first, second = recorder.pending_traces()[-2:]
    assert second.number == first.number + 1
    assert orjson.loads(first.extras)["truncated"] > 0
