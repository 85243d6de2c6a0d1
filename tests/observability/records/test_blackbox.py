"""The writing side of the black box: threads, forks, kills, full disks, instruments."""

from __future__ import annotations

import contextvars
import errno
import gc
import mmap
import os
import signal
import stat
import sys
import threading
from contextlib import suppress
from queue import Empty, Queue
from types import SimpleNamespace

import pytest
from support import forkserver
from support.waiting import wait_until

from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Vitals
from hearthnet.observability import get_logger, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.records import box_file
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.budget import Budget

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


@pytest.fixture
def box(tmp_path):
    """A box of this process that the instruments write to."""
    made = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.NODE, RUN, "1", None, Sizes(4_000_000, 1_000_000)))
    recorder = Recorder(RUN, lambda *_: None)
    recorder.box = made
    runtime.install(recorder)
    yield made
    runtime.install(None)
    made.close(remove=True)


def record_of(seq: int) -> TraceRecord:
    """A finished trace."""
    return TraceRecord(0, RUN, seq, RUN, None, "a.b", None, 1, 1, 0.5, "ok", None, 0, b"[]", b"{}")


def test_instruments_mark_what_is_in_flight(box):
    """A trace is listed from its start to its end, with the innermost span that is open."""

    def shown():
        return [(entry.capability, entry.span) for entry in box.contents().in_flight]

    assert shown() == []
    with trace.new_trace("llm.chat"):
        assert shown() == [("llm.chat", None)]
        with trace.span("outer"):
            with trace.span("inner"):
                assert shown() == [("llm.chat", "inner")]
            assert shown() == [("llm.chat", "outer")]
        assert shown() == [("llm.chat", None)]
        with trace.new_trace("rag.query"):
            assert shown() == [("llm.chat", None), ("rag.query", None)]
    assert shown() == []
    assert len(box.contents().traces) == 2


def test_parallel_spans_show_the_newest_that_is_open(box):
    """Of spans side by side the one that opened last is shown; when it closes, the newest of the rest."""
    with trace.new_trace("a.b"):
        first, second, third = trace.span("first"), trace.span("second"), trace.span("third")
        for opened in (first, second, third):
            opened.__enter__()
        second.__exit__(None, None, None)
        assert box.contents().in_flight[0].span == "third"
        third.__exit__(None, None, None)
        assert box.contents().in_flight[0].span == "first"
        first.__exit__(None, None, None)


def test_trace_that_nobody_can_end_gives_its_place_back(box):
    """A trace that is forgotten is not in flight: 10,000 of them do not fill the table."""
    for _ in range(10_000):
        contextvars.copy_context().run(trace.new_trace, "forgotten.one")
    gc.collect()

    assert box.overflow == 0
    assert len(box.contents().in_flight) <= 1


@pytest.mark.parametrize("name", ["\ud800", "ü" * 100, "x" * 5_000, 7, None])
def test_names_of_any_kind_are_kept_as_far_as_they_go(box, name):
    """Whatever a span or a capability is called, nothing raises and the entry can be read."""
    with trace.new_trace("a.b" if not isinstance(name, str) else name), trace.span(name):
        (entry,) = box.contents().in_flight
        assert entry.span
        assert len(entry.span.encode()) <= 44
    assert box.failures == 0


def test_logs_and_traces_are_kept_before_they_are_buffered(box):
    """What the instruments hand over is in the box, field for field."""
    node_logging.install_sinks(SimpleNamespace(log_level="info", log_dir=None, keep_debug_of_failures=False))
    with trace.new_trace("a.b@1.0") as started, trace.span("step", size=3):
        get_logger("hearthnet.test").warning("careful", extra={"n": 1})
    finished = layout.fields(box.contents().traces[0], "traces")
    logged = layout.fields(box.contents().logs[0], "logs")

    assert (finished["trace_id"], finished["parent_id"]) == (started.trace_id, None)
    assert (finished["capability"], finished["version"]) == ("a.b", "1.0")
    assert finished["spans"][0]["extras"] == {"size": 3}
    assert (logged["level"], logged["logger"], logged["msg"]) == ("warning", "hearthnet.test", "careful")
    assert (logged["trace_id"], logged["extras"]) == (started.trace_id, {"n": 1})


def test_many_threads_lose_nothing(box):
    """Eight threads at once: each record is whole, and there is one of each."""

    def append(start):
        for seq in range(start, start + 500):
            box.append_trace(record_of(seq))

    threads = [threading.Thread(target=append, args=(start,)) for start in range(0, 4_000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = box.contents()

    assert sorted(layout.fields(frame, "traces")["number"] for frame in found.traces) == list(range(4_000))
    assert [frame.ordinal for frame in found.traces] == list(range(1, 4_001))
    assert found.damaged == 0


def test_killed_process_leaves_everything(tmp_path):
    """SIGKILL in the middle of work: every record is there, and the trace in flight."""
    path = tmp_path / "telemetry.1.box2"
    script = f"""
import os, signal
from pathlib import Path
from hearthnet.forensics import box as layout
from hearthnet.observability import trace
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.runtime import runtime
recorder = Recorder({RUN!r}, lambda *_: None)
recorder.box = BlackBox(Path({str(path)!r}), new_header(layout.NODE, {RUN!r}, "1", None, Sizes(4_000_000, 100_000)))
runtime.install(recorder)
for _ in range(1000):
    with trace.new_trace("a.b"):
        pass
trace.new_trace("in.flight")
with trace.span("deep"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = forkserver.run([sys.executable, "-c", script])

    found = layout.read_box(path)
    assert done.returncode == -signal.SIGKILL
    assert [frame.ordinal for frame in found.traces] == list(range(1, 1_001))
    assert [(entry.capability, entry.span) for entry in found.in_flight] == [("in.flight", "deep")]
    assert not layout.is_alive(found.header)


def test_forked_child_cannot_touch_the_box(box):
    """A child may end its parent's trace, open spans and record: the parent's box stays as it was."""
    started = trace.new_trace("parents.own")
    before = box.path.read_bytes()
    child = os.fork()
    if child == 0:
        with trace.span("in.child"):
            box.append_trace(record_of(1))
        started.end()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    assert box.path.read_bytes() == before
    trace.detach()
    assert len(box.contents().traces) == 1


def test_forked_child_gets_free_locks(box):
    """A lock that another thread held at the fork is free in the child, which goes on with these rings."""
    held, done = threading.Event(), threading.Event()

    def locks():
        return [box._moving, box.traces.lock, box.logs.lock]

    def hold():
        with box._moving, box.traces.lock, box.logs.lock:
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(not all(lock.acquire(timeout=5) for lock in locks()))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.set()
    holder.join()

    assert code == 0


def test_box_that_was_removed_is_made_again_with_its_contents(box):
    """After the file was removed, `restore` makes it again with everything that the mapping holds."""
    box.append_trace(record_of(1))
    box.path.unlink()
    assert not box.is_in_place()
    box.restore()
    box.append_trace(record_of(2))

    assert box.is_in_place()
    assert [layout.fields(frame, "traces")["number"] for frame in layout.read_box(box.path).traces] == [1, 2]


def test_many_threads_wrap_without_a_torn_frame(tmp_path):
    """Eight threads fill a small ring many times over: what is left are the newest frames, whole, with few gaps."""
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(64_000, 8_000, 64)))

    def append():
        for seq in range(1, 2_001):
            box.append_trace(record_of(seq))

    in_threads(8, append)
    found = box.contents()

    assert (box.failures, found.damaged) == (0, 0)
    ordinals = [frame.ordinal for frame in found.traces]
    assert max(ordinals) == 16_000
    # A thread that was slow to write may have a frame of the lap before where a newer one would be.
    newest = [ordinal for ordinal in ordinals if ordinal > 16_000 - 300]
    assert len(newest) >= 250
    box.close(remove=True)


def in_threads(number, work) -> None:
    """Runs `work` in several threads at once, with many switches between them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)


def test_signal_handler_that_logs_during_the_turn_loses_nothing(tmp_path):
    """A record made between the jump to the start and the write there, by the same thread, is kept as well."""
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(4_096, 4_096, 64)))
    ring = box.traces
    while ring.memory.tell() < ring.size - 200:
        box.append_trace(record_of(7))

    class Interrupted:
        """Memory whose jump to the start is interrupted, before and after."""

        def __init__(self, memory):
            self.memory = memory

        def seek(self, at):
            ring.memory = self.memory
            box.append_trace(record_of(100))
            ring.memory.seek(at)
            box.append_trace(record_of(101))

    ring.memory = Interrupted(ring.memory)
    while isinstance(ring.memory, Interrupted):
        box.append_trace(record_of(8))
    numbers = [layout.fields(frame, "traces")["number"] for frame in box.contents().traces]

    assert box.failures == 0
    assert {100, 101} <= set(numbers)
    assert 8 in numbers
    box.close(remove=True)


def test_record_larger_than_the_ring_is_counted(tmp_path):
    """It can be kept nowhere; the next one is."""
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(4_096, 4_096, 64)))
    box.append_trace(record_of(1)._replace(extras=b'{"a":"%b"}' % (b"x" * 5_000)))
    box.append_trace(record_of(2))

    assert box.failures == 1
    assert [layout.fields(frame, "traces")["number"] for frame in box.contents().traces] == [2]
    box.close(remove=True)


def record_all(box, numbers) -> None:
    """Traces with a span each, until the numbers are used up."""
    with suppress(Empty):
        while True:
            number = numbers.get_nowait()
            slot = box.begin(RUN, "short.one", number, number)
            if slot is not None:
                box.open_span(slot, "step", number)
            box.append_trace(record_of(number))
            if slot is not None:
                box.close_span(slot)
                box.end(slot)


@pytest.mark.parametrize("file_system", ["ext4", "btrfs"])
def test_box_grows_while_threads_append(tmp_path, monkeypatch, file_system):
    """No frame and no mark is lost when the box moves to larger files, whichever thread was in the middle of what."""
    monkeypatch.setattr(box_file, "_file_system", lambda _: file_system)
    header = new_header(layout.LIBRARY, RUN, "1", None, Sizes(900_000, 100_000, 4))
    box = BlackBox(tmp_path / "telemetry.1.box2", header)
    stays = box.begin(RUN, "stays.open", 1, 2)
    box.note_committed(1, 0, 1)
    numbers = Queue()
    for number in range(1, 2_401):
        numbers.put(number)

    def grow():
        for step in range(1, 6):
            wait_until(lambda at=step: at * 400 <= len(box.contents().traces))
            box.grow(Sizes(900_000 + step * 200_000, 100_000, 4 + step))

    growing = threading.Thread(target=grow)
    growing.start()
    in_threads(4, lambda: record_all(box, numbers))
    growing.join()
    found = layout.read_box(box.path)

    assert [frame.ordinal for frame in found.traces] == list(range(1, 2_401))
    assert sorted(layout.fields(frame, "traces")["number"] for frame in found.traces) == list(range(1, 2_401))
    assert [entry.capability for entry in found.in_flight] == ["stays.open"]
    assert (found.committed_traces, found.committed_number, box.failures) == (1, 1, 0)
    assert (found.header.entries, stays in box.free) == (9, False)
    assert len({slot.at for slot in box.free}) == len(box.free) <= 8
    assert layout.boxes_in(tmp_path) == [box.path]
    assert layout.is_locked(box.path)
    box.end(stays)
    box.close(remove=True)
    assert list(tmp_path.glob("telemetry.*")) == []


def test_part_is_not_closed_in_the_middle_of_a_write(tmp_path, monkeypatch):
    """Else a mark would go to the old file after it was copied, or to whatever file has got its descriptor since."""
    write, closing = os.pwrite, []

    def write_late(*arguments):
        closing.append(threading.Thread(target=part.close))
        closing[0].start()
        closing[0].join(0.05)
        closing.append(closing[0].is_alive())
        return write(*arguments)

    with (tmp_path / "box").open("w+b") as file:
        part = box_file._Written(file.fileno(), 0, 100)
        monkeypatch.setattr(os, "pwrite", write_late)
        part[0:1] = b"x"
        closing[0].join()
        assert closing[1]
        assert file.read() == b"x"


def test_mark_made_while_the_table_moves_is_not_lost(box, monkeypatch):
    """A thread that ends a trace after the table was copied waits, and clears the mark in the new file."""
    first, second = box.begin(RUN, "first.one", 1, 1), box.begin(RUN, "second.one", 2, 2)
    box.open_span(second, "step", 3)
    held = []
    threads = [
        threading.Thread(target=box.end, args=(first,)),
        threading.Thread(target=box.close_span, args=(second,)),
        threading.Thread(target=box.open_span, args=(second, "later", 4)),
        threading.Thread(target=lambda: held.append(box.begin(RUN, "third.one", 3, 3))),
    ]
    read = os.pread

    def copied(*where):
        content = read(*where)
        for thread in threads:
            thread.start()
            thread.join(0.05)  # it waits; without the lock it would be done by now, in the old file
        return content

    monkeypatch.setattr(os, "pread", copied)
    box.grow(Sizes(5_000_000, 1_000_000))
    for thread in threads:
        thread.join()
    found = layout.read_box(box.path)

    assert {entry.capability for entry in found.in_flight} == {"second.one", "third.one"}
    assert found.in_flight[0].span in (None, "later")
    assert box.failures == 0


def test_process_killed_while_its_box_grows_leaves_all_of_it(tmp_path):
    """Killed before the old file is removed: two boxes of one run, which are one when joined."""
    script = f"""
import os, signal
from pathlib import Path
from hearthnet.forensics import box as layout
from hearthnet.observability.records import blackbox
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.stored import TraceRecord
header = new_header(layout.LIBRARY, {RUN!r}, "1", None, Sizes(200_000, 8_000, 64))
box = BlackBox(Path({str(tmp_path)!r}) / f"telemetry.{{os.getpid()}}.box2", header)
slot = box.begin({RUN!r}, "in.flight", 1, 2)
def append(first, last):
    for seq in range(first, last):
        values = {RUN!r}, None, "a.b", None, 1, 1, 0.5, "ok", None, 0, b"[]", b"{{}}"
        box.append_trace(TraceRecord(0, {RUN!r}, seq, *values))
append(1, 101)
def killed(ring, memory, size):
    ring.use(memory, size)
    append(101, 151)
    os.kill(os.getpid(), signal.SIGKILL)
blackbox._move_ring = killed
box.grow(Sizes(400_000, 8_000, 64))
"""
    done = forkserver.run([sys.executable, "-c", script])
    boxes = [layout.read_box(path) for path in layout.boxes_in(tmp_path)]
    found = layout.joined(*boxes)

    assert done.returncode == -signal.SIGKILL
    assert len(boxes) == 2
    assert [frame.ordinal for frame in found.traces] == list(range(1, 151))
    assert [entry.capability for entry in found.in_flight] == ["in.flight"]


def test_box_that_cannot_grow_stays_as_it_is(tiny_disk):
    """Without space for the larger file the old one goes on."""
    box = BlackBox(tiny_disk / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(64_000, 8_000, 64)))
    box.append_trace(record_of(1))
    with pytest.raises(OSError, match="No space"):
        box.grow(Sizes(64_000_000, 8_000, 64))
    box.append_trace(record_of(2))

    assert [frame.ordinal for frame in layout.read_box(box.path).traces] == [1, 2]
    assert layout.boxes_in(tiny_disk) == [box.path]
    box.close(remove=True)
    assert list(tiny_disk.glob("telemetry.*")) == []


def test_traces_beyond_the_table_are_counted(tmp_path):
    """A trace that finds no slot is not marked; the next one takes the slot of one that has ended."""
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(8_000, 8_000, 4)))
    slots = [box.begin(RUN, "a.b", 1, 1) for _ in range(6)]
    assert slots.count(None) == 2
    assert len({*slots}) == 5
    assert (box.overflow, box.contents().overflow, len(box.contents().in_flight)) == (2, 2, 4)
    box.end(slots[1])

    assert box.begin(RUN, "a.b", 1, 1) is slots[1]
    assert (box.overflow, box.failures, len(box.in_flight())) == (2, 0, 4)
    box.close(remove=True)


def test_committed_records_are_added_up(box):
    """Recovery learns from it how many frames it need not look for; the number never falls."""
    box.note_committed(2, 1, 7)
    box.note_committed(3, 0, 5)
    found = box.contents()

    assert (found.committed_traces, found.committed_logs, found.committed_number) == (5, 1, 7)


def test_sample_of_the_process_is_a_sign_of_life(box):
    """The samples are kept in their order, and each is a heartbeat."""
    box.note_alive()
    first = box.contents().heartbeat_ns
    box.note_vitals(Vitals(5, rss_bytes=7))
    box.note_vitals(Vitals(6, rss_bytes=8))

    assert [(vitals.ts_us, vitals.rss_bytes) for vitals in box.contents().vitals] == [(5, 7), (6, 8)]
    assert box.header.started_ns <= first < box.contents().heartbeat_ns


def test_closed_box_is_left_as_it_is(box):
    """Nothing is in flight in it, its lock is free, and what is recorded later does not reach it."""
    box.append_trace(record_of(1))
    slot = box.begin(RUN, "a.b", 1, 1)
    assert layout.is_locked(box.path)
    box.close(remove=False)
    left = box.path.read_bytes()
    box.append_trace(record_of(2))
    box.open_span(slot, "late", 1)
    box.end(slot)
    box.note_alive()

    assert box.path.read_bytes() == left
    assert (layout.is_locked(box.path), box.failures) == (False, 0)
    assert ([frame.ordinal for frame in layout.read_box(box.path).traces], layout.read_box(box.path).in_flight) == (
        [1],
        [],
    )
    box.close(remove=True)
    assert not box.path.exists()


def test_full_ring_that_moves_keeps_its_newest_and_space_for_more(tmp_path):
    """An eighth of the ring is free afterwards: what is recorded meanwhile evicts nothing that was kept."""
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(64_000, 8_000, 4)))
    for number in range(1, 301):
        box.append_trace(record_of(number)._replace(extras=b'"%b"' % (b"x" * 1_000)))
    held = [frame.ordinal for frame in box.contents().traces]
    box.grow(Sizes(64_000, 8_000, 8))
    kept = [frame.ordinal for frame in box.contents().traces]
    for number in range(301, 305):
        box.append_trace(record_of(number)._replace(extras=b'"%b"' % (b"x" * 1_000)))

    assert kept == held[-len(kept) :]
    assert 0.75 < len(kept) * 1_100 / box.header.trace_bytes < 7 / 8
    assert [frame.ordinal for frame in box.contents().traces] == [*kept, 301, 302, 303, 304]
    box.close(remove=True)


def test_end_is_told_with_what_is_left(box):
    """A box closes clean, or with records that are not in the database."""
    box.note_ended(7, is_committed=False)
    assert (box.contents().ended_us, box.contents().end_code) == (7, layout.ENDED_UNCOMMITTED)
    box.note_ended(8)
    assert (box.contents().ended_us, box.contents().end_code) == (8, layout.ENDED_CLEAN)


def test_file_is_private_and_takes_its_space_at_once(box):
    """The box has mode 0600 and no hole that a full disk could turn into SIGBUS."""
    status = box.path.stat()

    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_size == box.header.total_bytes
    assert status.st_blocks * 512 >= status.st_size


def test_no_space_for_a_box_is_an_error_at_once(tiny_disk):
    """On a disk that is too small the box cannot be made, and no part of it stays."""
    path = tiny_disk / "telemetry.1.box2"
    with pytest.raises(OSError, match="No space") as caught:
        BlackBox(path, new_header(layout.NODE, RUN, "1", None, Sizes(64_000_000, 1_000)))

    assert caught.value.errno == errno.ENOSPC
    assert not path.exists()


def test_box_goes_on_while_the_disk_is_full(tiny_disk):
    """A box that was made in time keeps records on a disk without a free byte."""
    box = BlackBox(tiny_disk / "telemetry.1.box2", new_header(layout.NODE, RUN, "1", None, Sizes(500_000, 1_000)))
    with (tiny_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(1 << 16)):
            pass
    for seq in range(1, 5_001):
        box.append_trace(record_of(seq))

    assert box.failures == 0
    assert layout.read_box(box.path).traces[-1][0] == 5_000
    box.close(remove=True)


def test_copy_on_write_file_systems_are_written_by_calls(tmp_path, monkeypatch):
    """Where a mapped page may need new space, the same box is written with `pwrite`, and reads the same."""
    monkeypatch.setattr(box_file, "_file_system", lambda path: {"telemetry.1.box2": "btrfs"}[path.name])
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.NODE, RUN, "1", None, Sizes(500_000, 100_000)))
    assert not isinstance(box.traces.memory, mmap.mmap)
    place = box.begin(RUN, "a.b", 1, 2)
    box.open_span(place, "step", 3)
    for seq in range(1, 101):
        box.append_trace(record_of(seq))

    found = layout.read_box(box.path)
    assert [frame.ordinal for frame in found.traces] == list(range(1, 101))
    assert [(entry.capability, entry.span) for entry in found.in_flight] == [("a.b", "step")]
    box.end(place)
    box.close(remove=True)
    assert not box.path.exists()


def test_budget_of_the_spec():
    """256 MB are 128 for the database, 16 for the WAL, 64 while it is pinned, 24 for boxes; never more in all."""
    budget = Budget(256)

    assert (budget.database, budget.wal, budget.wal_pinned, budget.boxes) == (128e6, 16e6, 64e6, 24e6)
    assert budget.database + budget.wal_pinned + budget.boxes + budget.rest <= 256e6
    for megabytes in (64, 100, 256, 1_000):
        budget = Budget(megabytes)
        assert budget.node_box().total + 15 * budget.program_box().total <= budget.boxes
        assert 16 * budget.program_box().total <= budget.program_boxes


def test_box_holds_ten_seconds_of_traces(tmp_path):
    """20,000 traces with two spans each, the ten seconds at 2,000 a second, fit the default box."""
    span = b'{"id":"0123456789abcdef","parent":null,"name":"generate","offset_ms":0.01,"duration_ms":0.5,"status":"ok",'
    spans = b"[" + b",".join([span + b'"extras":{"model":"tiny"}}'] * 2) + b"]"
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.NODE, RUN, "1", None, Budget(256).node_box()))
    record = record_of(2**40)._replace(spans=spans, started_us=2**50, started_mono_ns=2**45, version="1.0")
    for _ in range(20_000):
        box.append_trace(record)

    assert len(box.contents().traces) == 20_000
    box.close(remove=True)
