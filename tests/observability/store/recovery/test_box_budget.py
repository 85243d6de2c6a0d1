"""Boxes of dead runs get smaller: first what is committed goes, then what matters least; what lives is not touched."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import sys
from dataclasses import replace

import pytest
from support import forkserver
from support.old_box import old_box

from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Vitals
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.box_file import draft_of
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store.recovery import box_budget
from hearthnet.observability.store.recovery.box_budget import compact, keep_boxes_within, uncommitted
from hearthnet.observability.store.recovery.box_records import records_of

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
DEAD = 2**22 + 1  # no process has such a pid


def trace_of(number, notable=0, run=RUN) -> TraceRecord:
    """A finished trace of about 150 bytes."""
    return TraceRecord(0, run, number, run, None, "a.b", None, number, number, 0.5, "ok", None, notable, b"[]", b"{}")


def log_of(number, notable=0, run=RUN) -> LogRecord:
    """A log record."""
    return LogRecord(0, run, number, number, "info", "hearthnet.x", "message", None, None, notable, 0, b"{}", None)


def dead_box(path, run=RUN, *, count=100, committed=0, notable=(), sizes=None, pid=DEAD, vitals=2):
    """The box of a killed process: `count` traces and as many log records, numbered in turns."""
    header = new_header(layout.LIBRARY, run, "1", "ed25519:me", sizes or Sizes(64_000, 64_000, 64), "cron.py")
    box = BlackBox(path, replace(header, pid=pid))
    for number in range(1, 2 * count + 1, 2):
        box.append_trace(trace_of(number, int(number in notable), run))
        box.append_log(log_of(number + 1, int(number + 1 in notable), run))
    # The second was killed between the record of its end and the mark.
    slots = [box.begin(run, "llm.chat", 5, 6), box.begin(run, "a.b", 1, 1)]
    box.open_span(slots[0], "generate", 7)
    box.note_committed(committed, committed, 2 * committed)
    for at in range(vitals):
        box.note_vitals(Vitals(5 + at, rss_bytes=7 + at, loop_lag_s=0.5))
    box.renew_in_child()  # as a kill does: the lock is free, and nothing more reaches the file
    return path


def numbers(path) -> list[int]:
    """The numbers of the records in a box, in order."""
    box = layout.read_box(path)
    found = [layout.fields(frame, "traces") for frame in box.traces]
    found += [layout.fields(frame, "logs") for frame in box.logs]
    return sorted(values["number"] for values in found)


def test_dead_box_keeps_what_is_not_committed(tmp_path):
    """Everything else goes: the file is small, and tells the same of the run."""
    path = dead_box(tmp_path / "telemetry.9.box2", committed=90)
    before, size = layout.read_box(path), path.stat().st_size
    os.utime(path, ns=(5, 7))
    was = records_of(before)

    assert compact(path) == 0
    after = layout.read_box(path)
    found = records_of(after)

    assert [frame.ordinal for frame in after.traces] == [frame.ordinal for frame in after.logs] == list(range(91, 101))
    assert (after.traces, after.logs) == uncommitted(before)
    assert path.stat().st_size < size / 10
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns) == (0o600, 7)
    assert (after.header.run_id, after.header.program, after.header.pid) == (RUN, "cron.py", DEAD)
    assert [(entry.capability, entry.span) for entry in after.in_flight] == [("llm.chat", "generate")]
    assert found.interrupted[0]._replace(spans=b"") == was.interrupted[0]._replace(spans=b"")
    assert (after.committed_traces, after.committed_logs, after.committed_number) == (90, 90, 180)
    assert (after.vitals, found.dropped_traces, found.dropped_logs) == (before.vitals, 0, 0)

    content, number = path.read_bytes(), path.stat().st_ino
    assert compact(path) == 0
    assert (path.read_bytes(), path.stat().st_ino) == (content, number)


def test_draft_of_a_process_that_was_killed_is_in_nobodys_way(tmp_path):
    """Whatever it holds."""
    path = dead_box(tmp_path / "telemetry.9.box2", committed=90)
    draft_of(path, RUN).write_bytes(b"x" * 100_000)
    compact(path)

    assert len(layout.read_box(path).traces) == 10
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("vitals", [0, 1, 500])
def test_dead_box_keeps_its_samples(tmp_path, vitals):
    """All that there are, beside what was in flight: however many its process had taken."""
    path = dead_box(tmp_path / "telemetry.9.box2", committed=90, vitals=vitals)
    before = layout.read_box(path)
    compact(path)
    after = layout.read_box(path)

    assert after.vitals == before.vitals
    assert [entry.capability for entry in after.in_flight] == ["llm.chat"]
    assert len(after.traces) == 10


def test_box_that_this_process_has_closed_is_a_dead_one(tmp_path):
    """Its pid is that of a live process: ours, which knows its own box by its path."""
    for name in ("1", "2"):
        dead_box(tmp_path / f"telemetry.{name}.box2", pid=os.getpid())
    sizes = [path.stat().st_size for path in layout.boxes_in(tmp_path)]
    keep_boxes_within(tmp_path, 0, tmp_path / "telemetry.2.box2")

    after = [path.stat().st_size for path in layout.boxes_in(tmp_path)]
    assert [size < before for size, before in zip(after, sizes, strict=True)] == [True, False]


def test_oldest_ordinary_records_give_way_first(tmp_path):
    """Then the oldest notable ones; each is counted, and none as overwritten."""
    notable = {3, 4, 101, 102}
    path = dead_box(tmp_path / "telemetry.9.box2", count=100, notable=notable)
    compact(path)
    whole = path.stat().st_size

    gone = compact(path, whole - 5_000)
    left = numbers(path)

    assert gone == 200 - len(left)
    assert path.stat().st_size <= whole - 5_000
    assert set(left) == notable | set(range(gone + 3, 201))
    compact(path, 0, is_notable_kept=True)
    assert set(numbers(path)) == notable
    compact(path, path.stat().st_size - 1)
    assert set(numbers(path)) == {4, 101, 102}
    found = records_of(layout.read_box(path))
    assert (found.gave_way_traces + found.gave_way_logs, found.dropped_traces, found.dropped_logs) == (197, 0, 0)
    compact(path, 0)
    assert numbers(path) == []
    found = records_of(layout.read_box(path))
    assert (found.gave_way_traces, found.gave_way_logs, found.dropped_traces, found.dropped_logs) == (100, 100, 0, 0)


def test_overwritten_records_stay_counted(tmp_path):
    """What a small ring overwrote before is told apart from what gave way."""
    path = dead_box(tmp_path / "telemetry.9.box2", count=300, sizes=Sizes(16_000, 16_000, 4))
    lost = records_of(layout.read_box(path))
    compact(path, 12_000)
    found = records_of(layout.read_box(path))

    assert lost.dropped_traces > 0
    assert found.gave_way_traces > 0
    assert (found.dropped_traces, found.dropped_logs) == (lost.dropped_traces, lost.dropped_logs)
    assert found.dropped_traces + found.gave_way_traces + len(found.traces) == 300


def test_box_of_layout_1_becomes_one_of_layout_2(tmp_path):
    """Under the new layout's name: an older program would delete it under its own."""
    header = replace(new_header(layout.NODE, RUN, "0.2.0", None, Sizes(1, 1)), pid=DEAD)
    rows = [[seq, RUN, None, "a.b", None, seq, seq, 0.5, "ok", None, 0, [], {}] for seq in range(1, 9)]
    path = tmp_path / "telemetry.9.box"
    path.write_bytes(old_box(header, rows, committed=(5, 0, 5)))
    assert [record.number for record in records_of(layout.read_box(path)).traces] == list(range(1, 9))

    compact(path)

    assert layout.boxes_in(tmp_path) == [tmp_path / "telemetry.9.box2"]
    found = records_of(layout.read_box(tmp_path / "telemetry.9.box2"))
    assert [(record.run_id, record.number) for record in found.traces] == [(RUN, 6), (RUN, 7), (RUN, 8)]


def test_what_lives_or_is_newer_is_left_alone(tmp_path):
    """A locked box, one of a live process, one of a newer layout, one with newer payloads, and what is no box."""
    locked = dead_box(tmp_path / "telemetry.1.box2")
    alive = dead_box(tmp_path / "telemetry.2.box2")
    newer = dead_box(tmp_path / "telemetry.3.box2")
    payloads = dead_box(tmp_path / "telemetry.4.box2")
    (tmp_path / "telemetry.5.box2").write_bytes(b"no box")
    os.mkfifo(tmp_path / "telemetry.6.box2")
    header = layout.header_of(alive)
    parent = replace(header, pid=os.getppid(), process_start=layout.process_start(os.getppid()))
    alive.write_bytes(parent.pack() + alive.read_bytes()[len(parent.pack()) :])
    newer.write_bytes(newer.read_bytes()[:8] + b"\3" + newer.read_bytes()[9:])
    with payloads.open("r+b") as file:
        file.seek(header.traces_at)
        file.write(layout.pack_frame(layout.Frame(500, b"{}", 3)))
    files = (locked, alive, newer, payloads)
    before = [path.read_bytes() for path in files]
    fd = os.open(locked, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)

    for path in (locked, alive, newer, payloads):
        assert compact(path, 0) == 0
    assert keep_boxes_within(tmp_path, 0, None) == 0

    assert [path.read_bytes() for path in files] == before
    assert len(layout.boxes_in(tmp_path)) == 6
    os.close(fd)


def test_boxes_of_dead_runs_fit_their_budget(tmp_path):
    """Compacted first; then ordinary records of the oldest box go, before any notable one of another."""
    paths = []
    for at in range(4):
        run = f"{RUN[:-1]}{at}"
        paths.append(dead_box(tmp_path / f"telemetry.{at}.box2", run, count=50, committed=10, notable={99, 100}))
        os.utime(paths[-1], ns=(at, at))
    own = dead_box(tmp_path / "telemetry.8.box2")
    own_size = own.stat().st_size

    assert keep_boxes_within(tmp_path, 10**9, own) == 0
    assert sum(path.stat().st_size for path in paths) == 4 * own_size
    assert keep_boxes_within(tmp_path, 100_000, own) == 0
    whole = sum(path.stat().st_size for path in paths)
    assert whole <= 100_000
    assert [len(numbers(path)) for path in paths] == [80] * 4

    gone = keep_boxes_within(tmp_path, whole - 12_000, own)

    left = [numbers(path) for path in paths]
    assert sum(path.stat().st_size for path in paths) <= whole - 12_000
    assert gone == 320 - sum(map(len, left))
    assert left[0] == [99, 100]
    assert [len(found) for found in left[2:]] == [80, 80]
    keep_boxes_within(tmp_path, 0, own)
    assert [numbers(path) for path in paths] == [[]] * 4
    assert own.stat().st_size == own_size


def test_one_byte_too_much_is_too_much(tmp_path):
    """And none is not: what fits stays as it is."""
    path = dead_box(tmp_path / "telemetry.1.box2")
    compact(path)
    whole = path.stat().st_size

    assert keep_boxes_within(tmp_path, whole, None) == 0
    assert path.stat().st_size == whole
    assert keep_boxes_within(tmp_path, whole - 1, None) == 1
    assert path.stat().st_size < whole


@pytest.mark.parametrize("sign", ["lock", "parent", "first"])
def test_boxes_that_are_being_written_take_nothing_from_the_dead(tmp_path, sign):
    """They have a budget of their own, whether the lock says that they live, or the process does, whatever its pid."""
    path = dead_box(tmp_path / "telemetry.1.box2")
    living = dead_box(tmp_path / "telemetry.2.box2", f"{RUN[:-1]}2")
    size = path.stat().st_size
    fd = os.open(living, os.O_RDONLY)
    if sign == "lock":
        fcntl.flock(fd, fcntl.LOCK_EX)
    else:
        pid = os.getppid() if sign == "parent" else 1  # pids start again at some number: only the first's is lower
        header = replace(layout.header_of(living), pid=pid, process_start=layout.process_start(pid)).pack()
        living.write_bytes(header + living.read_bytes()[len(header) :])

    assert keep_boxes_within(tmp_path, size, None) == 0
    assert path.stat().st_size == size
    os.close(fd)


def test_run_that_is_killed_while_it_compacts_loses_nothing(tmp_path):
    """Before the new file has the name, the old one is there in full; what was begun is cleaned up later."""
    path = dead_box(tmp_path / "telemetry.9.box2", committed=90)
    before = path.read_bytes()
    script = f"""
import os, signal
from pathlib import Path
from hearthnet.observability.store.recovery import box_budget
os.utime = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
box_budget.compact(Path({str(path)!r}))
"""
    done = forkserver.run([sys.executable, "-c", script])

    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    (draft,) = tmp_path.glob(box_budget.DRAFTS)
    keep_boxes_within(tmp_path, 10**9, None)
    assert draft.exists()  # it may be another process's, just begun
    os.utime(draft, ns=(0, 0))
    keep_boxes_within(tmp_path, 10**9, None)
    assert not draft.exists()
    compact(path)
    assert len(numbers(path)) == 20


def test_box_stays_where_there_is_no_space_for_a_smaller_one(tmp_path, monkeypatch):
    """On a full disk it is kept as it is, and the next round tries again."""
    path = dead_box(tmp_path / "telemetry.9.box2")
    before = path.read_bytes()

    def refuse(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            compact(path)
        assert keep_boxes_within(tmp_path, 0, None) == 0
    assert (path.read_bytes(), list(tmp_path.glob(box_budget.DRAFTS))) == (before, [])
    assert keep_boxes_within(tmp_path, 0, None) == 200
