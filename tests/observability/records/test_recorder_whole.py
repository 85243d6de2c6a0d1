"""A trace that is encoded in one go is kept as any other: in the box, in the buffer, and for its writer."""

from __future__ import annotations

import pytest
from support.records import a_trace

from hearthnet.forensics import box as layout
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.records.box_file import Sizes, new_header
from hearthnet.observability.records.record import fields_of
from hearthnet.observability.records.recorder import Recorder

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


def in_one_go(recorder):
    """Records a trace, encoded as a whole."""
    columns = a_trace(recorder.next_number())[2:-2]
    assert recorder.record_whole(recorder.box, (*columns, [], {}), 2) is not None


def in_parts(recorder):
    """Records the same, encoded before."""
    number = recorder.next_number()
    recorder.record_trace(tuple(a_trace(number)[3:]), number)


@pytest.fixture
def make(tmp_path):
    """Makes recorders with a box, and the list of the flags of each call that woke the writer."""
    boxes = []

    def made(ring_bytes=64_000):
        header = new_header(layout.LIBRARY, RUN, "1", None, Sizes(ring_bytes, 4_096, 4))
        boxes.append(BlackBox(tmp_path / f"telemetry.{len(boxes)}.box2", header))
        woken = []
        recorder = Recorder(RUN, lambda *flags: woken.append(flags))
        recorder.keep_in(boxes[-1])
        return recorder, woken

    yield made
    for box in boxes:
        box.close(remove=True)


@pytest.mark.parametrize("ring_bytes", [64_000, 4_096])
def test_box_and_buffer_have_the_same(make, ring_bytes):
    """Also where the ring is full, and begins again."""
    kept = []
    for record in (in_one_go, in_parts):
        recorder, woken = make(ring_bytes)
        for _ in range(100):
            record(recorder)
        frames = [(frame.ordinal, frame.payload) for frame in recorder.box.contents().traces]
        fields = [fields_of(one, RUN)[2:] for one in recorder.traces.take(200)]
        kept.append((frames, fields, woken, recorder.box.failures))

    assert kept[0] == kept[1]
    assert kept[0][0][-1][0] == 100
    assert kept[0][3] == 0


@pytest.mark.parametrize("record", [in_one_go, in_parts])
def test_what_is_being_written_counts_as_waiting(make, record):
    """A crowd is half of what there is space for, whether the writer has taken it already or not."""
    recorder, woken = make()
    crowd = 0
    while not woken:
        record(recorder)
        crowd += 1
    other, woken = make()
    for _ in range(crowd - 1):
        record(other)
    other.traces.take(10)
    assert crowd > 20
    assert woken == []
    record(other)

    assert woken == [(True, True)]


@pytest.mark.parametrize("size", [3_000, 100_000])
def test_trace_that_may_be_too_large_for_a_row_is_left_to_the_other_way(make, size):
    """Nothing of it is kept then."""
    recorder, woken = make(200_000)
    frame = recorder.record_whole(recorder.box, (*a_trace(1)[2:-2], [], {"text": "x" * size}), size + 11)

    is_kept = size < 10_000
    assert (frame is not None) is is_kept
    assert len(recorder.traces) == len(recorder.box.contents().traces) == is_kept
    assert woken == []


def test_value_that_cannot_be_encoded_leaves_nothing(make):
    """The caller is told, and records it the other way."""
    recorder, _ = make()
    with pytest.raises(TypeError):
        recorder.record_whole(recorder.box, (*a_trace(1)[2:-2], [], {"value": object()}), 2)

    assert len(recorder.traces) == len(recorder.box.contents().traces) == 0
