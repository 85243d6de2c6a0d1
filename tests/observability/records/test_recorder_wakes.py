"""When a recorder wakes its writer, what it says of what waits, and the recorder that is made late."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest
from support.records import a_log, a_trace

from hearthnet.constants import LOG_RING_BUFFER, TRACE_RING_BUFFER
from hearthnet.observability.logs import ordinary
from hearthnet.observability.records.recorder import LazyRecorder, Recorder

KINDS = ["traces", "logs"]
WAYS = [*KINDS, "ordinary traces", "ordinary logs"]  # the last two with fewer calls, for what is encoded already


def record(recorder, way, *, notable=0):
    """Records a trace or a log record."""
    if way == "traces":
        recorder.record_trace(a_trace(0, notable=notable)[3:])
    elif way == "logs":
        recorder.record_log(a_log(0, notable=notable)[3:])
    elif way == "ordinary logs":
        number = next(recorder.numbers)
        ordinary._keep(recorder, a_log(number, notable=notable), b"[%d]" % number, notable)
    else:
        recorder.traces.queue.append(a_trace(next(recorder.numbers)))
        recorder.wake_for_trace()


def buffer_of(recorder, way):
    """Returns the buffer that has these records."""
    return recorder.traces if "traces" in way else recorder.logs


@pytest.fixture
def woken():
    """The flags of each call that woke the writer: commit at once, it is a crowd."""
    return []


@pytest.fixture
def recorder(woken):
    """A recorder with a writer."""
    return Recorder("run", lambda *flags: woken.append(flags))


@pytest.mark.parametrize("way", [*KINDS, "ordinary logs"])
def test_writer_is_woken_for_what_is_notable_at_once(recorder, woken, way):
    """An ordinary record waits for the next interval."""
    record(recorder, way)
    assert woken == []
    record(recorder, way, notable=1)
    assert woken == [(True, False)]


@pytest.mark.parametrize("way", WAYS)
def test_idle_writer_is_woken_once(recorder, woken, way):
    """It then waits for the interval, not for the next record."""
    recorder.is_idle = True
    record(recorder, way)
    record(recorder, way)
    assert woken == [(False, False)]
    recorder.is_idle = True
    record(recorder, "logs", notable=1)
    assert woken == [(False, False), (True, False)]


@pytest.mark.parametrize("way", WAYS)
def test_crowd_is_half_of_the_buffer(recorder, woken, way):
    """From then on each record wakes the writer, until it has taken them; half of them may be in its hands."""
    buffer = buffer_of(recorder, way)
    half = buffer.capacity // 2
    for _ in range(half - 1):
        record(recorder, way)
    assert woken == []
    assert not recorder.is_filling()
    buffer.take(half // 2)
    record(recorder, way)
    record(recorder, way)
    assert woken == [(True, True)] * 2
    assert recorder.is_filling()

    buffer.confirm()
    record(recorder, way)
    assert (len(woken), recorder.is_filling()) == (2, False)


@pytest.mark.parametrize("way", WAYS)
def test_buffer_drops_its_oldest_and_counts_them(recorder, way):
    """Whichever way records come, and although nothing takes them."""
    buffer = buffer_of(recorder, way)
    for _ in range(buffer.capacity + 5):
        record(recorder, way)

    assert len(buffer) == buffer.capacity
    assert buffer.take_dropped() == 5
    assert buffer.snapshot()[0][2] == 6


class Emptied(deque):
    """A queue that others empty between the look at it and the next call."""

    def __len__(self):
        return 10**6


def test_buffer_that_is_emptied_meanwhile_drops_nothing(recorder):
    """As by a signal handler that logs."""
    recorder.logs.queue = Emptied()
    recorder.logs.make_room()

    assert recorder.logs.take_dropped() == 0


class Box:
    """A box of so many bytes for each kind, with what was appended."""

    def __init__(self, trace_bytes, log_bytes):
        self.header = SimpleNamespace(trace_bytes=trace_bytes, log_bytes=log_bytes)
        self.kept = []

    def append_trace(self, record):
        """Appends a trace."""
        self.kept.append(("traces", record[2]))

    def append_log(self, record):
        """Appends a log record."""
        self.kept.append(("logs", record[2]))


@pytest.mark.parametrize(("kind", "crowd"), [("traces", 10), ("logs", 5)])
def test_crowd_is_half_of_the_box_where_that_is_less(recorder, woken, kind, crowd):
    """What is overwritten there before it is committed could not be recovered."""
    recorder.keep_in(Box(20 * 600, 10 * 400))
    for _ in range(crowd - 1):
        record(recorder, kind)
    assert woken == []
    record(recorder, kind)
    assert woken == [(True, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_box_of_no_size_is_full_at_once(recorder, woken, kind):
    """And one that is larger than the buffer leaves half of that."""
    recorder.keep_in(Box(0, 0))
    assert not recorder.is_filling()
    record(recorder, kind)
    assert woken == [(True, True)]
    recorder.fit(Box(10**12, 10**12))
    half = getattr(recorder, kind).capacity // 2
    for _ in range(half - 2):
        record(recorder, kind)
    assert (len(woken), recorder.is_filling()) == (1, False)
    record(recorder, kind)
    assert (len(woken), recorder.is_filling()) == (2, True)


def test_box_gets_what_waits_and_what_follows(recorder):
    """In the order of either kind; the numbers are given at birth, over both."""
    for kind in ("traces", "logs", "traces"):
        record(recorder, kind)
    box = Box(10**6, 10**6)
    recorder.keep_in(box)
    record(recorder, "logs")
    record(recorder, "traces")

    assert box.kept == [("traces", 1), ("traces", 3), ("logs", 2), ("logs", 4), ("traces", 5)]
    assert [trace.number for trace in recorder.pending_traces()] == [1, 3, 5]
    assert [entry.number for entry in recorder.pending_logs()] == [2, 4]
    pending = [*recorder.pending_traces(), *recorder.pending_logs()]
    assert {(entry.seq, entry.run_id) for entry in pending} == {(0, "run")}  # the seq is given by the database


def test_recorder_without_a_writer_is_the_ring():
    """It wakes nothing, and holds as much as the database would; one with a writer holds what a long lock needs."""
    ring, stored = Recorder("run"), Recorder("run", lambda *_: None)
    ring.is_idle = True
    record(ring, "traces", notable=1)

    assert (ring.traces.capacity, ring.logs.capacity) == (TRACE_RING_BUFFER, LOG_RING_BUFFER)
    assert (stored.traces.capacity, stored.logs.capacity) == (20_000, 10_000)
    assert ring.lag_s(10**18, 10**15) == 0.0
    assert ring.is_idle


@pytest.mark.parametrize("kind", KINDS)
def test_something_waits_until_it_is_committed(recorder, kind):
    """Also while its batch is under way."""
    assert not recorder.has_pending()
    record(recorder, kind)
    assert recorder.has_pending()
    getattr(recorder, kind).take(1)
    assert recorder.has_pending()
    getattr(recorder, kind).confirm()
    assert not recorder.has_pending()


def test_lag_is_the_age_of_the_oldest(recorder):
    """Of a trace since it ended, in monotonic time; of a log record in UTC, but no more than the recorder's own."""
    made_ns = recorder._made_ns
    assert recorder.lag_s(made_ns, 0) == 0.0
    recorder.record_trace(a_trace(0, started_mono_ns=made_ns, duration_ms=1_500.0)[3:])
    recorder.record_trace(a_trace(0, started_mono_ns=made_ns + 1_000_000_000, duration_ms=0.0)[3:])
    assert recorder.lag_s(made_ns + 4_000_000_000, 0) == 2.5
    assert recorder.lag_s(made_ns + 1_000_000_000, 0) == 0.0  # it is still to end, by that clock

    recorder.record_log(a_log(0, ts_us=4_500_000)[3:])
    recorder.record_log(a_log(0, ts_us=1_000_000)[3:])
    assert recorder.lag_s(made_ns + 4_000_000_000, 8_000_000) == 3.5
    assert recorder.lag_s(made_ns + 4_000_000_000, 2_000_000) == 2.5  # set back
    assert recorder.lag_s(made_ns + 4_500_000_000, 10**15) == 4.5  # set forward


def test_late_recorder_is_made_by_its_first_use():
    """Once; a child of this process makes its own."""
    made = []

    def make():
        made.append(Recorder(f"run {len(made)}"))
        return made[-1]

    late = LazyRecorder(make)
    assert made == []
    record(late, "traces")
    record(late, "logs")
    assert len(made) == 1
    assert (late.run_id, len(made[0].traces), len(made[0].logs)) == ("run 0", 1, 1)
    child = late.again()
    assert (child.run_id, late.run_id) == ("run 1", "run 0")


def test_what_is_recorded_while_the_recorder_is_made_goes_no_further():
    """Making one logs: that record has a place meanwhile, and the rest does not wait for it."""
    seen = []

    def make():
        record(late, "logs")
        record(late, "logs")
        seen.append([entry.number for entry in late.pending_logs()])
        return Recorder("run")

    late = LazyRecorder(make)
    record(late, "traces")

    assert seen == [[1, 2]]
    assert (late.run_id, late.pending_logs()) == ("run", [])
