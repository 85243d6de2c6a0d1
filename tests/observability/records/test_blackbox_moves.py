"""What a box still knows once it has moved to another file, was cut, or may have to give back what was committed."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest
from support.records import a_log, a_trace

from hearthnet.forensics import box as layout
from hearthnet.observability.records import blackbox, box_file
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


@pytest.fixture
def box(tmp_path):
    """A small box of this process."""
    made = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(8_192, 4_096, 4)))
    yield made
    made.close(remove=True)


def ordinals(box):
    """The ordinals of the frames of either ring, as the file has them."""
    held = layout.read_box(box.path)
    return [frame.ordinal for frame in held.traces], [frame.ordinal for frame in held.logs]


def fill(box, first, last):
    """Appends a trace and a log record of each of these numbers."""
    for number in range(first, last + 1):
        box.append_trace(a_trace(number, RUN))
        box.append_log(a_log(number, RUN))


def grow(box):
    """Moves a box to a larger file."""
    box.grow(Sizes(16_384, 8_192, 8))


@pytest.mark.parametrize("move", [grow, BlackBox.restore], ids=["grow", "restore"])
def test_both_rings_move_with_their_ordinals(box, move):
    """And go on with them, so that what is committed is known; so do the marks of what is in flight."""
    first = box.begin(RUN, "first.one", 5, 6)
    fill(box, 1, 3)
    box.note_committed(2, 1, 4)
    move(box)
    fill(box, 4, 4)
    second = box.begin(RUN, "second.one", 7, 8)
    held = layout.read_box(box.path)

    assert ordinals(box) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert (held.committed_traces, held.committed_logs, held.committed_number) == (2, 1, 4)
    assert [entry.capability for entry in held.in_flight] == ["first.one", "second.one"]
    assert held.in_flight == box.in_flight()
    box.end(first)
    assert [entry.capability for entry in box.in_flight()] == ["second.one"]
    box.end(second)
    assert (box.failures, box.is_in_place()) == (0, True)


def test_box_that_grows_gets_as_many_slots_as_its_table_has(box):
    """Those that were in use stay so."""
    slots = [box.begin(RUN, "a.b", at, at) for at in range(3)]
    grow(box)
    slots += [box.begin(RUN, "a.b", at, at) for at in range(3, 9)]

    assert len({*slots}) == 9
    assert box.overflow == 1
    assert [entry.started_ns for entry in box.in_flight()] == list(range(8))
    assert box.header.entries == 8


@pytest.mark.parametrize("smaller", [Sizes(4_096, 4_096, 1), Sizes(8_192, 4_096, 4)], ids=["smaller", "as large"])
def test_no_part_of_a_box_gets_smaller(box, smaller):
    """Whatever sizes it is told to grow to."""
    held = box.header
    box.grow(smaller)

    assert (box.header.trace_bytes, box.header.log_bytes, box.header.entries) == (
        held.trace_bytes, held.log_bytes, held.entries,
    )  # fmt: skip


def test_file_that_was_cut_is_told_until_it_is_made_again(box):
    """It has its length at once, as zeros, so that no write goes beyond its end."""
    fill(box, 1, 2)
    assert (box.is_in_place(), box.was_cut) == (True, False)
    os.truncate(box.path, box.header.total_bytes - 1)

    assert not box.is_in_place()
    assert (box.is_in_place(), box.was_cut) == (True, True)
    assert box.path.stat().st_size == box.header.total_bytes
    box.restore()
    assert (box.is_in_place(), box.was_cut) == (True, False)
    os.truncate(box.path, box.header.total_bytes + 1)
    assert (box.is_in_place(), box.was_cut) == (True, False)


@pytest.mark.parametrize("committed", [(0, 0, 0), (2, 1, 4)])
def test_database_may_have_lost_all_that_a_box_holds(box, committed):
    """Then none of it counts as committed."""
    fill(box, 1, 3)
    box.note_committed(*committed)
    box.forget_committed()
    held = box.contents()

    assert (held.committed_traces, held.committed_logs, held.committed_number) == (0, 0, committed[2])


@pytest.mark.parametrize("before", [0, 1])
def test_what_a_box_has_no_longer_stays_committed(box, before):
    """Each ring by its own oldest frame; what was not committed before that is not now."""
    fill(box, 1, 200)
    held = box.contents()
    oldest = held.traces[0].ordinal - 1, held.logs[0].ordinal - 1
    assert min(oldest) > 0
    assert oldest[0] != oldest[1]
    box.note_committed(*(200 if not before else count - 1 for count in oldest), 400)
    box.forget_committed()
    found = box.contents()

    assert (found.committed_traces, found.committed_logs) == tuple(count - before for count in oldest)


@pytest.mark.parametrize("bad", [b"no json", None])
def test_record_that_is_no_json_is_counted_and_costs_no_other(box, bad):
    """It is still in the buffer, which the writer empties."""
    box.append_trace(a_trace(1, RUN)._replace(error=object()))
    box.append_log(a_log(2, RUN)._replace(msg=object() if bad is None else bad))
    fill(box, 3, 3)

    assert box.failures == 2
    box.turn(box.traces, b"x" * 8_193)
    assert box.failures == 3
    assert [len(frames) for frames in ordinals(box)] == [1, 1]


@pytest.mark.parametrize(
    ("at", "written", "populated"),
    [
        (0, 131_072 // 2 - 1, []),
        (0, 131_072 // 2, [(65_536, 196_608)]),
        (100_000, 100_000, [(200_000, 262_144), (0, 137_856)]),
        (200_000, 130_000, [(67_856, 262_144), (0, 65_712)]),
        (10_000, 262_000, [(9_856, 262_144), (0, 9_856)]),
    ],
    ids=["little", "just enough", "up to the end", "over the end", "nearly all"],
)
def test_pages_of_the_next_records_are_populated(tmp_path, monkeypatch, at, written, populated):
    """Twice what was written since the last time, and no page twice; nothing where little is written."""
    box = BlackBox(tmp_path / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(262_144, 4_096, 4)))
    found = []
    monkeypatch.setattr(blackbox, "populate_pages", lambda _, *pages: pages[0] < pages[1] and found.append(pages))
    box.traces.memory.seek(at)
    box.traces.prepared_at = at
    box.traces.memory.seek((at + written) % 262_144)
    box.prepare()
    assert found == populated
    box.prepare()
    assert found == populated
    box.close(remove=True)


def test_lock_of_a_box_is_released_whatever_its_descriptor(box, monkeypatch):
    """Of a process without standard input it may be 0."""
    held, closed = box._fd, []
    box._fd = 0
    monkeypatch.setattr(os, "close", closed.append)
    box.renew_in_child()
    box.renew_in_child()
    monkeypatch.undo()
    os.close(held)

    assert closed == [0]


class Full:
    """A table in a file on a disk that is full."""

    def __init__(self, table):
        self.close = table.close

    def __setitem__(self, where, content):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_table_that_cannot_be_written_is_counted(box):
    """And raises nothing: the program goes on."""
    slot = box.begin(RUN, "a.b", 1, 1)
    table, box.table = box.table, Full(box.table)
    before = box.failures
    box.open_span(slot, "step", 1)
    box.close_span(slot)
    box.note_committed(1, 1, 1)
    box.end(slot)
    box.table = table

    assert box.failures == before + 4


@pytest.mark.parametrize("file_system", ["ext4", "btrfs"])
def test_box_that_is_closed_keeps_no_file_open(tmp_path, monkeypatch, file_system):
    """A process that opens and closes stores would run out of descriptors."""
    monkeypatch.setattr(box_file, "_file_system", lambda _: file_system)
    header = new_header(layout.LIBRARY, RUN, "1", None, Sizes(8_192, 4_096, 4))
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        box = BlackBox(tmp_path / f"telemetry.{number}.box2", header)
        fill(box, 1, 2)
        box.close(remove=True)
    del box

    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("is_removed", [False, True])
def test_box_of_a_program_that_gave_up_its_rights_stays(tmp_path, as_nobody, is_removed):
    """What is open and mapped needs none: only a file that has no name any more is gone, which costs its records."""
    folder = tmp_path / "closed"
    folder.mkdir(0o700)
    box = BlackBox(folder / "telemetry.1.box2", new_header(layout.LIBRARY, RUN, "1", None, Sizes(1, 1)))
    if is_removed:
        box.path.unlink()
    with as_nobody():
        assert box.is_in_place() is not is_removed
        box.append_log(a_log(1, RUN))
    box.close(remove=False)

    assert is_removed or len(layout.read_box(box.path).logs) == 1
