"""Reading a black box: intact, torn, truncated, corrupt, hostile."""

from __future__ import annotations

import os
import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.old_box import old_box

from hearthnet.forensics import box as layout
from hearthnet.forensics.model import Vitals
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header
from hearthnet.observability.records.stored import LogRecord, TraceRecord

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
SIZES = Sizes(traces=64_000, logs=16_000)


def trace_record(seq: int, padding: int = 0) -> TraceRecord:
    """Returns a numbered finished trace."""
    extras = b'{"n":%d,"padding":"%b"}' % (seq, b"x" * padding)
    return TraceRecord(0, RUN, seq, RUN, None, "a.b", "1.0", 1_000 + seq, seq, 0.5, "ok", None, 0, b"[]", extras)


def log_record(seq: int) -> LogRecord:
    """Returns a numbered log record."""
    return LogRecord(0, RUN, seq, 1_000 + seq, "info", "hearthnet.x", f"message {seq}", None, None, 0, 0, b"{}", None)


def make(path, sizes=SIZES, role=layout.NODE) -> BlackBox:
    """A box written by this process."""
    return BlackBox(path, new_header(role, RUN, "1.2.3", "ed25519:me", sizes, "cron.py"))


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """The bytes of a box whose rings have wrapped several times."""
    path = tmp_path_factory.mktemp("box") / "telemetry.1.box2"
    box = make(path)
    for seq in range(1, 2_001):
        box.append_trace(trace_record(seq, padding=seq % 97))
        box.append_log(log_record(seq))
    slot = box.begin(RUN, "llm.chat", 5, 6)
    bytes_of = path.read_bytes()
    box.end(slot)
    box.close(remove=True)
    return bytes_of


@cache
def frames_of(content: bytes) -> dict[int, layout.Frame]:
    """Returns the traces of an intact box by ordinal."""
    return {frame.ordinal: frame for frame in layout.parse(content).traces}


def test_what_is_written_is_read(tmp_path):
    """Header, records and traces in flight are read back unchanged from a box that was not closed."""
    path = tmp_path / "telemetry.1.box2"
    box = make(path)
    slot = box.begin(RUN, "llm.chat", 5, 6)
    box.open_span(slot, "generate", 7)
    box.append_trace(trace_record(1))
    box.append_log(log_record(2))
    box.note_committed(1, 0, 1)

    found = layout.read_box(path)

    assert found.header == box.header
    assert (found.header.program, path.stat().st_size) == ("cron.py", box.header.total_bytes)
    assert [list(layout.fields(frame, "traces").values()) for frame in found.traces] == [
        [1, RUN, None, "a.b", "1.0", 1_001, 1, 0.5, "ok", None, 0, [], {"n": 1, "padding": ""}]
    ]
    assert [layout.fields(frame, "logs")["msg"] for frame in found.logs] == ["message 2"]
    assert found.in_flight == [layout.InFlight(RUN, "llm.chat", 5, 6, "generate", 7)]
    assert (found.committed_traces, found.committed_logs, found.committed_number) == (1, 0, 1)
    assert found.damaged == 0


def test_trace_that_ended_is_not_in_flight(tmp_path):
    """Ending a trace frees its slot; closing a span leaves the trace outside any span."""
    path = tmp_path / "telemetry.1.box2"
    box = make(path)
    first, second = box.begin(RUN, "a.b", 1, 1), box.begin(RUN, "c.d", 2, 2)
    box.open_span(second, "step", 3)
    box.close_span(second)
    box.end(first)

    assert [(entry.capability, entry.span) for entry in layout.read_box(path).in_flight] == [("c.d", None)]


def test_table_that_is_full_counts_and_goes_on(tmp_path):
    """The 4,097th trace in flight gets no slot and is counted; a freed slot is used again."""
    path = tmp_path / "telemetry.1.box2"
    box = make(path)
    places = [box.begin(RUN, "a.b", 1, 1) for _ in range(layout.ENTRIES + 2)]
    box.end(places[0])
    places.append(box.begin(RUN, "last.one", 1, 1))

    assert places[layout.ENTRIES : layout.ENTRIES + 2] == [None, None]
    found = layout.read_box(path)
    assert (len(found.in_flight), found.overflow, box.overflow) == (layout.ENTRIES, 2, 2)
    assert "last.one" in {entry.capability for entry in found.in_flight}


def test_ring_keeps_the_newest(content):
    """After many wraps the newest records are there without a gap."""
    found = layout.parse(content)
    ordinals = [frame.ordinal for frame in found.traces]

    assert ordinals[-1] == 2_000
    newest = ordinals[-300:]
    assert newest == list(range(newest[0], 2_001))
    assert all(layout.fields(frame, "traces")["number"] == frame.ordinal for frame in found.traces)


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_damage_costs_only_what_it_hits(content, seed):
    """Flipped bits, a random page, truncation, zeros: no exception, and no record that was not written."""
    chance = random.Random(seed)
    damaged = bytearray(content)
    kind = chance.randrange(4)
    if kind == 0:
        for _ in range(20):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        at = chance.randrange(len(damaged))
        damaged[at : at + 4_096] = chance.randbytes(len(damaged[at : at + 4_096]))
    elif kind == 2:
        del damaged[chance.randrange(len(damaged)) :]
    else:
        at = chance.randrange(len(damaged))
        damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))

    found = layout.parse(bytes(damaged))

    if found is None:  # the header itself was hit
        assert bytes(damaged[: layout.HEADER.size + 4]) != content[: layout.HEADER.size + 4]
        return
    true = frames_of(content)
    assert all(true[frame.ordinal] == frame for frame in found.traces)
    if kind < 2:
        assert len(found.traces) >= len(true) - 70


@given(st.binary(max_size=20_000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_without_an_exception(junk):
    """Random bytes are not a box; after a valid header they are a box without intact records."""
    assert layout.parse(junk) is None
    header = new_header(layout.NODE, RUN, "1", None, SIZES).pack()
    found = layout.parse(header + junk)
    assert found.traces == found.logs == []


def row_before(seq: int) -> list:
    """The values of a trace's payload of version 1."""
    return [seq, RUN, None, "a.b", "1.0", 1_000 + seq, seq, 0.5, "ok", None, 0, [], {"n": seq}]


def test_box_of_layout_1_is_read():
    """A box that an older program left: header, records by name, traces in flight, counters."""
    flying = layout.InFlight(RUN, "llm.chat", 5, 6, "generate", 7)
    header = new_header(layout.NODE, RUN, "0.2.0", "ed25519:me", SIZES)
    log_row = [4, 1_004, "info", "hearthnet.x", "message", None, None, 0, 0, {}, None]
    raw = old_box(header, [row_before(seq) for seq in (1, 2, 3)], [log_row], committed=(1, 0, 1), in_flight=[flying])

    found = layout.parse(raw)

    assert (found.header.layout, found.header.program, found.header.run_id) == (1, "", RUN)
    assert found.header.total_bytes == len(raw)
    assert [layout.fields(frame, "traces")["number"] for frame in found.traces] == [1, 2, 3]
    assert "seq" not in layout.fields(found.traces[0], "traces")
    assert [layout.fields(frame, "logs")["msg"] for frame in found.logs] == ["message"]
    assert found.in_flight == [flying]
    assert (found.committed_traces, found.committed_number, found.gave_way_traces) == (1, 1, 0)
    assert found.heartbeat_ns == header.started_ns + 5


def test_frame_torn_at_any_byte_is_skipped():
    """Of a frame only the first bytes were written, over zeros, text or an older frame: its neighbour is whole."""
    first, second = (layout.pack_frame(layout.Frame(number, b'["%d"]' % number)) for number in (1, 2))
    older = layout.pack_frame(layout.Frame(9, b"zzzzz"))
    for cut in range(len(second)):
        for before in (bytes(len(second)), b"x" * len(second), older):
            found, _ = layout.scan(first + second[:cut] + before[cut:])
            assert [frame.ordinal for frame in found if frame.ordinal < 9] == [1], cut
    assert [frame.ordinal for frame in layout.scan(first + second)[0]] == [1, 2]


def test_payload_of_a_newer_version_is_counted(content):
    """A frame whose columns are not known is kept as it is, counted, and has no values."""
    found = layout.parse(content)
    newer = layout.pack_frame(layout.Frame(5_000, b'{"new":1}', 3))
    at = found.header.traces_at
    changed = layout.parse(content[:at] + newer + content[at + len(newer) :])

    assert changed.unreadable == 1
    assert changed.traces[-1] == layout.Frame(5_000, b'{"new":1}', 3)
    assert layout.fields(changed.traces[-1], "traces") is None
    assert found.unreadable == 0


def test_newer_layout_is_told_from_damage(tmp_path, content):
    """A box of layout 3 is left alone by name and by content: reading it is an error, not "no box"."""
    newer = content[:8] + b"\3" + content[9:]
    (tmp_path / "telemetry.1.box2").write_bytes(newer)
    (tmp_path / "telemetry.2.box3").write_bytes(newer)
    (tmp_path / "telemetry.3.box2").write_bytes(content[:8] + b"\xff\xff\xff" + content[11:])
    (tmp_path / "telemetry.4.box2").write_bytes(content)
    (tmp_path / "telemetry.5.box").write_bytes(content)

    assert [path.name for path in layout.boxes_in(tmp_path)] == [
        "telemetry.1.box2", "telemetry.3.box2", "telemetry.4.box2", "telemetry.5.box",
    ]  # fmt: skip
    assert [path.name for path in layout.newer_boxes_in(tmp_path)] == ["telemetry.1.box2", "telemetry.2.box3"]
    with pytest.raises(layout.NewerBoxError, match="layout is 3"):
        layout.read_box(tmp_path / "telemetry.1.box2")
    assert layout.read_box(tmp_path / "telemetry.3.box2") is None
    assert layout.read_box(tmp_path / "telemetry.4.box2").header.run_id == RUN


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe with the name of a box is an error at once; it has no header and no lock."""
    path = tmp_path / "telemetry.1.box2"
    os.mkfifo(path)

    with pytest.raises(OSError, match="it is a pipe, not a file"):
        layout.read_box(path)
    assert layout.header_of(path) is None
    assert not layout.is_locked(path)


def test_two_boxes_of_one_run_are_one():
    """Frames by their ordinals, each once; traces in flight each once; the highest counters."""
    header = new_header(layout.NODE, RUN, "1", None, SIZES)
    flying = [layout.InFlight(RUN, name, at, at, None, None) for at, name in enumerate(("a", "b", "c"))]
    frames = [layout.Frame(number, b"[%d]" % number) for number in range(1, 8)]
    older = layout.Box(header, frames[:5], [], flying[:2], committed_traces=2, heartbeat_ns=7)
    newer = layout.Box(header, frames[3:], [], flying[1:], committed_traces=3, heartbeat_ns=5, damaged=1)

    found = layout.joined(older, newer)

    assert (found.traces, found.in_flight) == (frames, flying)
    assert (found.committed_traces, found.heartbeat_ns, found.damaged) == (3, 7, 1)
    assert found.overwritten_traces == 0


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"OTHER\x00\r\n"), (8, b"\x63\0\0\0")],
    ids=["another magic", "another version"],
)
def test_other_layouts_are_refused(content, offset, value):
    """A file of another kind or version is not a box, even with a valid checksum."""
    import zlib

    head = bytearray(content[: layout.HEADER.size])
    head[offset : offset + len(value)] = value
    changed = bytes(head) + zlib.crc32(bytes(head)).to_bytes(4, "little") + content[len(head) + 4 :]

    assert layout.parse(changed) is None


def test_recorded_text_cannot_pose_as_a_frame(tmp_path):
    """A message that contains a frame stays a message: JSON has neither the magic's bytes nor zero bytes."""
    path = tmp_path / "telemetry.1.box2"
    box = make(path)
    forged = layout.pack_frame(layout.Frame(99, b"[]"))
    box.append_log(log_record(1)._replace(msg=forged.decode("latin-1")))

    found = layout.read_box(path)
    assert [frame.ordinal for frame in found.logs] == [1]
    assert layout.scan(found.logs[0].payload)[0] == []


def test_process_is_alive_only_if_pid_boot_and_start_agree(tmp_path):
    """Our own header counts as alive; with another pid, boot or start time it does not."""
    from dataclasses import replace

    header = new_header(layout.NODE, RUN, "1", None, SIZES)

    assert layout.is_alive(header)
    assert not layout.is_alive(replace(header, pid=2**22 + 1))
    assert not layout.is_alive(replace(header, boot_id="another"))
    assert not layout.is_alive(replace(header, process_start=header.process_start + 1))


def vitals(number: int) -> Vitals:
    """Returns a numbered sample; there is one every 2 s."""
    return Vitals(2_000_000 * number, number, 2**40 + number, number, 2**45, 0.5, None if number % 2 else 1.25)


def page_of(*ordinals: int) -> bytearray:
    """Returns a header page with samples of these ordinals, written in this order."""
    page = bytearray(layout.HEADER_BYTES)
    for ordinal in ordinals:
        for place in layout.vitals_offsets(ordinal):
            page[place : place + layout.VITALS.size] = layout.pack_vitals(ordinal, vitals(ordinal))
    return page


def test_samples_fit_into_the_header_page():
    """No slot overlaps the counters or exceeds the page."""
    places = {place for ordinal in range(1, 5_000) for place in layout.vitals_offsets(ordinal)}

    assert min(places) >= layout.COUNTERS_AT + layout.COUNTERS.size
    assert max(places) + layout.VITALS.size <= layout.HEADER_BYTES
    assert len(places) == 58


@pytest.mark.parametrize("count", [1, 2, 29, 30, 31, 500, 5_000])
def test_samples_thin_out_with_age(count):
    """All samples of the last minute are kept, one per half minute for ten minutes, one per five minutes before."""
    found = [sample.ts_us // 2_000_000 for sample in layout.vitals_in(page_of(*range(1, count + 1)))]

    assert found == sorted(set(found))
    assert found[-30:] == list(range(max(1, count - 29), count + 1))
    assert set(range(1, count + 1, 15)[-20:]) <= set(found)
    assert set(range(1, count + 1, 150)[-8:]) <= set(found)
    assert len(found) <= 58
    assert layout.vitals_in(page_of(*range(1, count + 1)))[-1] == vitals(count)


def test_torn_sample_costs_itself_alone():
    """A half-written sample is skipped; one from a clock that was set back keeps its position."""
    page = page_of(*range(1, 21))
    page[layout.vitals_offsets(20)[0] + 9] ^= 1
    assert [sample.rss_bytes for sample in layout.vitals_in(page)] == list(range(1, 20))

    stepped = Vitals(5)
    place = layout.vitals_offsets(21)[0]
    page = page_of(*range(1, 20))
    page[place : place + layout.VITALS.size] = layout.pack_vitals(21, stepped)
    assert layout.vitals_in(page)[-1] == stepped
    assert layout.vitals_in(page[: place + 10])[-1] == vitals(19)


def test_box_of_a_program_that_took_none(content):
    """A box written before vitals existed is read, without samples."""
    assert layout.parse(content).vitals == []
    assert layout.vitals_in(b"") == []
