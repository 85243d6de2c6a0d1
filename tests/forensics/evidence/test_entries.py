"""Converting records to entries: any row, frame or line becomes a valid entry or none."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from hearthnet.forensics.box import Frame
from hearthnet.forensics.evidence.entries import (
    error_groups,
    from_gap,
    from_line,
    from_log,
    from_trace,
    minutes_before,
    rows_of_frames,
    vitals_of,
)
from hearthnet.forensics.model import Entry, Vitals
from hearthnet.forensics.tables import COLUMNS
from hearthnet.forensics.timeline import ended_us, timeline

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
STORED = st.one_of(SCALARS, st.binary(max_size=30), VALUES.map(json.dumps))


def row(table, value):
    """Rows of arbitrary values."""
    return st.fixed_dictionaries(dict.fromkeys(COLUMNS[table], value))


def frame(table):
    """Payloads of a black box with values of any type, the number included."""
    width = len(COLUMNS[table]) - 2
    payloads = st.lists(VALUES, min_size=width, max_size=width).map(json.dumps).map(str.encode)
    return st.builds(Frame, st.integers(1, 9), payloads, st.integers(1, 3))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    traces=st.lists(row("traces", STORED), max_size=2),
    logs=st.lists(row("logs", STORED), max_size=2),
    gaps=st.lists(row("gaps", STORED), max_size=1),
    frames=st.lists(frame("traces"), max_size=2),
    lines=st.lists(st.dictionaries(st.sampled_from(["ts", "level", "logger", "msg", "ms", "exc"]), VALUES), max_size=2),
    vitals=STORED,
)
def test_no_value_makes_any_rule_raise(traces, logs, gaps, frames, lines, vitals):
    """Rows of wrong types, frames of another version and foreign lines are merged, counted and grouped."""
    boxed = [from_trace(row, "box") for row in rows_of_frames(frames, "traces", "01RUN")]
    records = [*map(from_trace, traces), *map(from_log, logs), *map(from_gap, gaps), *boxed]
    written = [entry for line in lines if (entry := from_line(line)) is not None]

    merged = timeline(records, written, [], set())

    assert len(merged) <= len(records) + len(written)
    assert all(isinstance(ended_us(entry), int) for entry in merged)
    minutes_before(max(map(ended_us, merged), default=0), [entry for entry in merged if entry.kind == "trace"])
    assert sum(group.count > 0 for group in error_groups(merged)) <= len(merged)
    assert all(isinstance(sample, Vitals) for sample in vitals_of(vitals))


def test_status_of_a_response_is_no_number_like_others():
    """`HTTP ?` would say nothing, and a 500 is not a 503; an order's number is left aside."""
    errors = ["HTTP 500", "HTTP 503", "order 7 is gone", "order 8 is gone", "HTTP 500"]
    made = [Entry(at, "trace", "internal_error", "GET /", text) for at, text in enumerate(errors)]

    assert sorted((group.text, group.count) for group in error_groups(made)) == [
        ("internal_error: HTTP 500", 2), ("internal_error: HTTP 503", 1), ("internal_error: order 8 is gone", 2),
    ]  # fmt: skip


def test_done_line_is_the_trace_that_it_tells_of():
    """A trace's start is its line's time minus the duration; without a valid duration there is no entry."""
    line = {
        "ts": "2026-05-26T12:00:10.000Z", "level": "warning", "logger": "hearthnet.trace", "msg": "done",
        "trace_id": "01T", "capability": "llm.chat", "result": "timeout", "ms": 2_500.5, "error": "too late",
    }  # fmt: skip

    entry = from_line(line)

    assert (entry.kind, entry.status, entry.name, entry.text) == ("trace", "timeout", "llm.chat", "too late")
    assert (entry.trace_id, entry.duration_ms, ended_us(entry)) == ("01T", 2_500.5, 1_779_796_810_000_000)
    for wrong in (-1, float("inf"), None, "2", 1e300):
        assert from_line({**line, "ms": wrong}) is None


def test_vitals_that_were_not_measured_are_none():
    """Samples are read by key; a value that is not a number counts as not measured."""
    column = json.dumps([{"ts_us": 5, "rss_bytes": 7, "load": 0.5, "loop_lag_s": None, "open_files": "many"}, 3])

    assert vitals_of(column) == (Vitals(5, rss_bytes=7, load=0.5),)
