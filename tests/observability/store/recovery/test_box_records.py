"""What a dead run's box holds as records: how long what was interrupted had run, and which frames are no records."""

from __future__ import annotations

import json
from dataclasses import replace
from time import monotonic_ns

import orjson
import pytest

from hearthnet.forensics import box as layout
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, new_header
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store.recovery.box_records import record_interrupted, records_of

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
SECOND = 1_000_000_000
STARTED = 50 * SECOND  # of the run, on the monotonic clock
HEADER = replace(new_header(layout.LIBRARY, RUN, "1", None, Sizes(8_000, 8_000, 4)), started_ns=STARTED)
TRACE = [7, "t", None, "a.b", None, 1, STARTED, 0.5, "ok", None, 0, [], {}]
LOG = [8, 1, "info", "x", "m", None, None, 0, 0, {}, None]


def flying(start_s, span_s=None):
    """A trace that began so many seconds after the run, and perhaps a span in it."""
    span = (None, None) if span_s is None else ("step", STARTED + int(span_s * SECOND))
    return layout.InFlight("t", "a.b", 1, STARTED + int(start_s * SECOND), *span)


def logged(second):
    """The frame of a log record of so many seconds after the run; `flying` began a second after it by this clock."""
    values = LOG.copy()
    values[1] = 1 + (second - 1) * 1_000_000
    return frame(values)


def frame(values, ordinal=1):
    """A frame with that payload."""
    return layout.Frame(ordinal, json.dumps(values).encode())


def finished(start_s, duration_s):
    """The frame of a trace that ended."""
    values = TRACE.copy()
    values[6:8] = STARTED + int(start_s * SECOND), duration_s * 1_000.0
    return frame(values)


@pytest.mark.parametrize(
    ("box", "trace_ms", "offset_ms", "span_ms"),
    [
        (
            layout.Box(HEADER, in_flight=[flying(1, 3.25)], heartbeat_ns=STARTED + 9 * SECOND + 500_000),
            8_000.5,
            2_250,
            5_750.5,
        ),
        (layout.Box(HEADER, [finished(2, 4)], [], [flying(1, 3)]), 5_000, 2_000, 3_000),
        (layout.Box(HEADER, in_flight=[flying(1, 1.0625)]), 62.5, 62.5, 0),
        (layout.Box(HEADER, in_flight=[flying(1, 1.5), flying(4)]), 3_000, 500, 2_500),
        (layout.Box(HEADER, [], [logged(4)], [flying(1, 3)], heartbeat_ns=STARTED + 2 * SECOND), 3_000, 2_000, 1_000),
        (layout.Box(HEADER, [], [logged(0)], [flying(1, 3)]), 2_000, 2_000, 0),
        (layout.Box(HEADER, [], [logged(9_000)], [flying(1, 3)]), 122_000, 2_000, 120_000),
        (layout.Box(HEADER, in_flight=[flying(-2, -1)]), 2_000, 1_000, 1_000),  # before the run had a box
    ],
    ids=[
        "heartbeat", "another's end", "its own span", "another's start", "a log record", "an earlier log record",
        "a clock that was set", "start of the run",
    ],
)  # fmt: skip
def test_interrupted_trace_had_run_until_the_last_sign_of_life(box, trace_ms, offset_ms, span_ms):
    """The last moment at which anything of the run is known to have happened ends it and its open span."""
    record = records_of(box).interrupted[0]
    (span,) = orjson.loads(record.spans)

    assert (record.duration_ms, span["offset_ms"], span["duration_ms"]) == (trace_ms, offset_ms, span_ms)
    assert (record.result, record.notable, span["name"], span["status"]) == ("interrupted", 1, "step", "open")


def test_records_of_a_box_are_those_that_were_written():
    """Each of its run, with its number; the seq is given when it is inserted."""
    found = records_of(layout.Box(HEADER, [frame(TRACE)], [frame(LOG)]))

    assert found.traces == [
        (0, RUN, 7, "t", None, "a.b", None, 1, STARTED, 0.5, "ok", None, 0, b"[]", b"{}"),
    ]
    assert found.logs == [(0, RUN, 8, 1, "info", "x", "m", None, None, 0, 0, b"{}", None)]


@pytest.mark.parametrize(
    ("span_s", "said"),
    [(None, "its run ended while it was outside any span"), (2, "its run ended while it was in step")],
)
def test_interrupted_trace_says_where_it_was(span_s, said):
    """It has no number yet: it was never recorded."""
    (record,) = records_of(
        layout.Box(HEADER, in_flight=[flying(1, span_s)], heartbeat_ns=STARTED + 4 * SECOND)
    ).interrupted

    assert record._replace(spans=b"[]") == (
        0, RUN, 0, "t", None, "a.b", None, 1, STARTED + SECOND, 3_000.0, "interrupted", said, 1, b"[]", b"{}",
    )  # fmt: skip
    for span in orjson.loads(record.spans):
        assert len(span.pop("id")) == 16
        assert span == {
            "parent": None, "name": "step", "offset_ms": 1_000, "duration_ms": 2_000, "status": "open", "extras": {},
        }  # fmt: skip


def test_what_a_box_lost_is_counted_by_kind():
    """What it overwrote, and what gave way to its budget."""
    box = layout.Box(
        HEADER, [frame(TRACE, 9)], [frame(LOG, 5)], committed_traces=6, committed_logs=1, last_trace=9, last_log=5,
        gave_way_traces=1, gave_way_logs=2,
    )  # fmt: skip
    found = records_of(box)

    assert (found.dropped_traces, found.dropped_logs) == (box.overwritten_traces, box.overwritten_logs)
    assert (found.gave_way_traces, found.gave_way_logs) == (1, 2)


def test_trace_outside_any_span_has_none():
    """Nothing is made up."""
    (record,) = records_of(layout.Box(HEADER, in_flight=[flying(1)])).interrupted

    assert (record.spans, record.duration_ms) == (b"[]", 0)


def test_trace_that_has_its_record_was_not_interrupted():
    """Killed between the record and the mark; one with the same id that began at another time is not it."""
    found = records_of(layout.Box(HEADER, [finished(1, 1)], [], [flying(1), flying(2)]))

    assert [record.started_mono_ns for record in found.interrupted] == [STARTED + 2 * SECOND]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, True), (0, 2**63), (0, 2**64 - 1), (0, -(2**63) - 1), (0, "7"), (0, None), (1, 5), (3, None), (3, "\ud800"),
        (5, 1.5), (7, float("nan")), (7, float("inf")), (7, "1"), (10, None), (11, "[]"), (12, None),
        (12, {"n": 10**30}), (11, ["\ud800"]),
    ],
)  # fmt: skip
def test_frame_of_other_types_is_no_record(at, value):
    """The others are; what a row could not hold is not tried."""
    bad = TRACE.copy()
    bad[at] = value
    others = [frame([*TRACE, 1]), frame(bad), frame(TRACE), frame(bad)]
    found = records_of(layout.Box(HEADER, others, [frame(LOG[1:]), frame(LOG), frame(LOG[1:])]))

    assert ([record.number for record in found.traces], [record.number for record in found.logs]) == ([7], [8])
    assert (found.traces[0].spans, found.traces[0].extras, found.logs[0].extras) == (b"[]", b"{}", b"{}")


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_largest_integers_are_numbers(number):
    """All that a column can hold."""
    assert records_of(layout.Box(HEADER, [frame([number, *TRACE[1:]])])).traces[0].number == number


@pytest.fixture
def recorder(tmp_path):
    """A recorder with a box."""
    recorder = Recorder(RUN, lambda *_: None)
    recorder.keep_in(BlackBox(tmp_path / "telemetry.9.box2", HEADER))
    yield recorder
    recorder.box.close(remove=True)


def test_traces_in_flight_are_recorded_when_a_run_ends_in_order(recorder):
    """Each as of a run that was killed, with a number; not one that has its record already. Their own end is late."""
    now_ns = monotonic_ns()
    recorder.record_trace(("t1", None, "a.b", None, 1, now_ns, 0.5, "ok", None, 0, b"[]", b"{}"))
    begun = [("t1", "a.b", 1, now_ns), ("t2", "c.d", 2, now_ns - 2 * SECOND), ("t1", "e.f", 3, now_ns - 3 * SECOND)]
    slots = [recorder.box.begin(*trace) for trace in begun]
    recorder.box.open_span(slots[1], "step", now_ns - SECOND)
    record_interrupted(recorder)

    _, older, newer = recorder.pending_traces()
    assert [older.trace_id, older.started_us, older.number, newer.trace_id, newer.number] == ["t1", 3, 2, "t2", 3]
    assert 2_000 <= newer.duration_ms < older.duration_ms
    assert (newer.result, newer.error) == ("interrupted", "its run ended while it was in step")
    assert orjson.loads(newer.spans)[0]["duration_ms"] == pytest.approx(newer.duration_ms - 1_000)
    assert recorder.box.interrupted == {("t2", now_ns - 2 * SECOND), ("t1", now_ns - 3 * SECOND)}


def test_run_without_traces_in_flight_records_none(recorder):
    """Nor does one without a box, which nobody could read."""
    record_interrupted(recorder)
    record_interrupted(Recorder(RUN))

    assert not recorder.has_pending()
    assert recorder.box.interrupted == frozenset()
