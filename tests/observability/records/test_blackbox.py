"""The writing side of the black box: threads, forks, kills, full disks, instruments."""

from __future__ import annotations

import contextvars
import errno
import gc
import os
import signal
import stat
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
from support import forkserver

from hearthnet.forensics import box as layout
from hearthnet.observability import get_logger, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.records import box_file
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.record import TraceRecord
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.budget import Budget

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


@pytest.fixture
def box(tmp_path):
    """A box of this process that the instruments write to."""
    made = BlackBox(
        tmp_path / "telemetry.1.box2", new_header(layout.NODE, RUN, "1", None, Sizes(4_000_000, 1_000_000))
    )
    recorder = Recorder(RUN, 1, lambda _: None)
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
    node_logging.configure(SimpleNamespace(log_level="info", log_dir=None, keep_debug_of_failures=False))
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
recorder = Recorder({RUN!r}, 1, lambda _: None)
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


def test_box_that_was_removed_is_made_again_with_its_contents(box):
    """After the file was removed, `restore` makes it again with everything that the mapping holds."""
    box.append_trace(record_of(1))
    box.path.unlink()
    assert not box.is_in_place()
    box.restore()
    box.append_trace(record_of(2))

    assert box.is_in_place()
    assert [layout.fields(frame, "traces")["number"] for frame in layout.read_box(box.path).traces] == [1, 2]


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
    monkeypatch.setattr(box_file, "_file_system", lambda _: "btrfs")
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.NODE, RUN, "1", None, Sizes(500_000, 100_000)))
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
    assert budget.primary_box().total + 2 * budget.secondary_box().total <= budget.boxes
    for megabytes in (64, 100, 1_000):
        small = Budget(megabytes)
        assert small.primary_box().total + small.secondary_box().total <= small.boxes


def test_box_holds_ten_seconds_of_traces(tmp_path):
    """20,000 traces with two spans each, the ten seconds at 2,000 a second, fit the default box."""
    span = b'{"id":"0123456789abcdef","parent":null,"name":"generate","offset_ms":0.01,"duration_ms":0.5,"status":"ok",'
    spans = b"[" + b",".join([span + b'"extras":{"model":"tiny"}}'] * 2) + b"]"
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.NODE, RUN, "1", None, Budget(256).primary_box()))
    record = record_of(2**40)._replace(spans=spans, started_us=2**50, started_mono_ns=2**45, version="1.0")
    for _ in range(20_000):
        box.append_trace(record)

    assert len(box.contents().traces) == 20_000
    box.close(remove=True)
