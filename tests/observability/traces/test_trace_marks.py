"""The mark of the innermost open span, which the black box shows of a trace in flight, in any order of calls."""

from __future__ import annotations

import errno
from contextvars import copy_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthnet.forensics import box as layout
from hearthnet.observability import trace
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces import span as spans
from hearthnet.observability.traces import trace as traces

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """One with a box, and no writer."""
    header = new_header(layout.NODE, RUN, "1", None, Sizes(64_000, 4_096, 64))
    made = Recorder(RUN)
    made.box = BlackBox(tmp_path_factory.mktemp("box") / "telemetry.1.box2", header)
    yield made
    made.box.close(remove=True)


def marked(recorder):
    """The names of the spans that the box shows as the innermost of its traces in flight."""
    return [entry.span for entry in recorder.box.in_flight()]


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.booleans()), max_size=24))
def test_newest_of_the_spans_that_are_open_is_marked(recorder, steps):
    """Of tasks side by side as well: whichever of them opens and closes spans, nested or not, in whatever order."""
    runtime.install(recorder)
    made = trace.new_trace("a.b")
    open_now = []  # with the context of each, oldest first
    for number, (is_opening, place, is_inside) in enumerate(steps):
        if is_opening:
            around = open_now[place % len(open_now)][1] if open_now and is_inside else copy_context()
            item = trace.span(f"s{number}")
            context = around.run(copy_context)
            context.run(item.__enter__)
            open_now.append((item, context))
        elif open_now:
            item, context = open_now.pop(place % len(open_now))
            context.run(item.__exit__, None, None, None)
        assert marked(recorder) == [open_now[-1][0].name if open_now else None]
    trace.detach()

    assert recorder.box.in_flight() == []
    assert [item.status for item in made.spans].count("open") == len(open_now)


@pytest.mark.parametrize("is_renamed", [False, True])
def test_mark_holds_no_secret(recorder, is_renamed):
    """The box is a file, and is copied into reports."""
    runtime.install(recorder)
    with trace.new_trace("a.b"), trace.span("step" if is_renamed else "password=tiger12345") as opened:
        if is_renamed:
            opened.name = "password=tiger12345"
            with trace.span("inner"):
                pass
        assert "tiger12345" not in str(marked(recorder))
    assert b"tiger12345" not in recorder.box.table[:]


class Full:
    """A table in a file on a disk that is full."""

    def __setitem__(self, where, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getitem__(self, where):
        return bytes(where.stop - where.start)


@pytest.mark.parametrize("is_nested", [True, False])
def test_disk_that_is_full_costs_marks_alone(recorder, monkeypatch, is_nested):
    """They are counted; the spans and the trace are recorded."""
    runtime.install(recorder)
    before = recorder.box.failures
    monkeypatch.setattr(recorder.box, "table", Full())
    with trace.new_trace("a.b") as made, trace.span("around"):
        if is_nested:
            with trace.span("inner"):
                pass

    assert [item.status for item in made.spans] == ["ok"] * (1 + is_nested)
    assert recorder.box.failures - before == (6 if is_nested else 4)


def test_marks_of_spans_that_were_dropped(recorder, monkeypatch):
    """Of thousands that are open at once some are dropped: the others are marked as before."""
    runtime.install(recorder)
    for module in (spans, traces):
        monkeypatch.setattr(module, "MAX_SPANS", 4)
    with trace.new_trace("a.b") as made:
        opened = [(trace.span(f"s{number}"), copy_context()) for number in range(10)]
        for item, context in opened:
            context.run(item.__enter__)
        assert marked(recorder) == ["s9"]
        for item, context in opened[::-1]:
            context.run(item.__exit__, None, None, None)
            left = [kept.name for kept in made.spans if not kept.closed_ns]
            assert marked(recorder) == ([left[-1]] if left else [None])

        assert marked(recorder) == [None]
        assert len(made.spans) <= 4
