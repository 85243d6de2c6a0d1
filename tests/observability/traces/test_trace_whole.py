"""A trace that is encoded in one go is kept as any other: in the box, in the buffer, and for its writer."""

from __future__ import annotations

import gc
from contextvars import copy_context
from types import SimpleNamespace

import orjson
import pytest

from hearthnet.forensics import box as layout
from hearthnet.observability import trace
from hearthnet.observability.records import box_file
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, new_header
from hearthnet.observability.records.record import fields_of
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces import begin
from hearthnet.observability.traces import trace as traces

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


def make_trace(**extras):
    """An ordinary trace, always the same."""
    made = trace.new_trace("a.b@1", trace_id=RUN)
    made.extras.update(extras)
    trace.detach()


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes recorders with a box, and the list of the flags of each call that woke the writer; time stands still."""
    boxes = []
    for module in (begin, traces):
        monkeypatch.setattr(module, "monotonic_ns", lambda: 1_000)
    monkeypatch.setattr(begin, "time_ns", lambda: 1_790_000_000_000_000_000)

    def made(ring_bytes=64_000, *, in_parts=False):
        header = new_header(layout.LIBRARY, RUN, "1", None, Sizes(ring_bytes, 4_096, 4))
        boxes.append(BlackBox(tmp_path / f"telemetry.{len(boxes)}.box2", header))
        woken = []
        recorder = Recorder(RUN, lambda *flags: woken.append(flags))
        recorder.keep_in(boxes[-1])
        runtime.install(recorder)
        if in_parts:
            monkeypatch.setattr(traces.Trace, "_record_whole", lambda *_: 0)
        return recorder, woken

    yield made
    for box in boxes:
        box.close(remove=True)


@pytest.mark.parametrize("ring_bytes", [64_000, 4_096])
def test_box_and_buffer_have_the_same(make, ring_bytes):
    """Also where the ring is full, and begins again."""
    kept = []
    for in_parts in (False, True):
        recorder, woken = make(ring_bytes, in_parts=in_parts)
        for _ in range(100):
            make_trace()
        frames = [(frame.ordinal, frame.payload) for frame in recorder.box.contents().traces]
        fields = [fields_of(one) for one in recorder.traces.take(200)]
        kept.append((frames, fields, woken, recorder.box.failures))

    assert kept[0] == kept[1]
    assert kept[0][0][-1][0] == 100
    assert kept[0][3] == 0


def test_usual_trace_is_recorded_in_one_go(make, monkeypatch):
    """With its spans, as soon as their names are known."""
    make()
    ways, whole = [], traces.Trace._record_whole
    monkeypatch.setattr(traces.Trace, "_record_whole", lambda *given: ways.append(whole(*given)) or ways[-1])
    for _ in range(2):
        with trace.new_trace("a.b"), trace.span("step", extra=7):
            pass

    assert ways[-1] is None


@pytest.mark.parametrize("in_parts", [False, True])
def test_what_is_being_written_counts_as_waiting(make, in_parts):
    """A crowd is half of what there is space for, whether the writer has taken it already or not."""
    _, woken = make(in_parts=in_parts)
    crowd = 0
    while not woken:
        make_trace()
        crowd += 1
    other, woken = make()
    for _ in range(crowd - 1):
        make_trace()
    other.traces.take(10)
    assert crowd > 20
    assert woken == []
    make_trace()

    assert woken == [(True, True)]


@pytest.mark.parametrize("in_parts", [False, True])
def test_first_trace_wakes_a_writer_that_waits(make, in_parts):
    """Once, without haste."""
    recorder, woken = make(in_parts=in_parts)
    recorder.is_idle = True
    make_trace()
    make_trace()

    assert woken == [(False, False)]
    assert recorder.lag_s(1_500_001_000, 0) == 1.5


@pytest.mark.parametrize(("name", "value"), [("text", "x" * 100_000), ("number", 2**70), ("lone", "\ud800")])
def test_trace_that_one_go_cannot_keep_is_kept_once(make, name, value):
    """Too large for a row, or no JSON: the other way has it, with the next number, and one frame."""
    recorder, _ = make(200_000)
    make_trace(**{name: value})
    make_trace()

    first, second = recorder.pending_traces()
    assert (first.number, second.number) == (1, 2)
    assert [frame.ordinal for frame in recorder.box.contents().traces] == [1, 2]
    assert name.encode() in first.extras


@pytest.mark.parametrize(("value", "shown"), [(2**70, hex(2**70)), ("\ud800", "\\ud800"), (float("nan"), "NaN")])
def test_span_that_cannot_be_encoded_as_it_is_keeps_what_can_be(make, value, shown):
    """Its neighbours are as they were."""
    recorder, _ = make()
    with trace.new_trace("a.b"):
        for extra in (value, 7):
            with trace.span("step", extra=extra):
                pass

    (kept,) = recorder.pending_traces()
    assert [item["extras"] for item in orjson.loads(kept.spans)] == [{"extra": shown}, {"extra": 7}]


def test_writer_that_cannot_be_woken_costs_no_trace(make):
    """What waking raises, a signal handler's error say, comes after the trace was kept: it is not kept again."""
    recorder, _ = make()

    def raising(*_):
        raise OSError

    recorder.wake, recorder.is_idle = raising, True
    make_trace()

    assert [kept.number for kept in recorder.pending_traces()] == [1]
    assert len(recorder.box.contents().traces) == 1


@pytest.mark.parametrize("file_system", ["ext4", "btrfs"])
def test_trace_that_is_dropped_is_in_flight_no_more(make, monkeypatch, file_system):
    """Its slot is free again, once; the log records that waited for its end are counted as dropped."""
    monkeypatch.setattr(box_file, "_file_system", lambda _: file_system)
    recorder, _ = make()
    dropped = []
    for _ in range(3):
        made = copy_context().run(trace.new_trace, "a.b")
        made.hold((), SimpleNamespace(drop_row=lambda: dropped.append(1)))
        assert len(recorder.box.in_flight()) == 1
        del made
        gc.collect()
        assert recorder.box.in_flight() == []
    make_trace()

    assert len(dropped) == 3
    assert [slot.at for slot in recorder.box.free] == [layout.HEADER_BYTES]
    assert recorder.box.failures == 0


def test_dropped_box_with_a_trace_in_flight_is_no_fault(make):
    """Whichever of the two goes first."""
    recorder, _ = make()
    made = copy_context().run(trace.new_trace, "a.b")
    kept, recorder.box = recorder.box, None
    runtime.install(None)
    kept.close(remove=True)
    del kept
    gc.collect()
    made.end()

    assert trace.get_recent(1)[0].trace_id == made.trace_id


@pytest.mark.parametrize(("ms", "notable"), [(0.5, 0), (1.0, 1), (1.5, 1)])
def test_slow_trace_is_notable(make, monkeypatch, ms, notable):
    """From just the limit on."""
    recorder, woken = make()
    monkeypatch.setattr(runtime, "slow_ms", 1.0)
    made = trace.new_trace("a.b")
    made.end(1_000 + int(ms * 1e6))
    trace.detach()

    (kept,) = recorder.pending_traces()
    assert (kept.duration_ms, kept.notable, woken) == (ms, notable, [(True, False)] * notable)


def test_trace_whose_fields_are_none_has_a_number_of_its_own(make):
    """The program may have set anything."""
    recorder, _ = make()
    make_trace()
    made = trace.new_trace("a.b")
    made.extras = (1, 2)
    trace.detach()
    make_trace()

    assert [kept.number for kept in recorder.pending_traces()] == [1, 2, 3]


@pytest.mark.parametrize("status", ["error", "cancelled", "zzz"])
def test_span_that_went_wrong_says_so_in_a_trace_that_ended_well(make, status):
    """The program may have coped with it."""
    recorder, _ = make()
    with trace.new_trace("a.b"), trace.span("step") as step:
        step.status = status

    (kept,) = recorder.pending_traces()
    assert (kept.result, orjson.loads(kept.spans)[0]["status"]) == ("ok", status)
