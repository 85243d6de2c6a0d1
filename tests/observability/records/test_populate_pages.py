"""Pages are made ready without a change to what they hold."""

from __future__ import annotations

import mmap

import pytest

from hearthnet.forensics import box as layout
from hearthnet.observability.records import populate_pages
from hearthnet.observability.records.blackbox import BlackBox, Sizes, new_header


@pytest.fixture
def mapped(tmp_path):
    """A file of 64 pages, mapped."""
    path = tmp_path / "mapped"
    path.write_bytes(bytes(range(256)) * (64 * mmap.PAGESIZE // 256))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 64 * mmap.PAGESIZE)


def test_contents_stay(mapped):
    """The contents are unchanged, whichever range is populated."""
    before = bytes(mapped)
    for start, end in [(0, len(mapped)), (5, 3 * mmap.PAGESIZE + 7), (mmap.PAGESIZE, mmap.PAGESIZE)]:
        populate_pages.populate_pages(mapped, start, end)

    assert bytes(mapped) == before


@pytest.mark.parametrize(("start", "end"), [(0, 0), (10, 20), (9_000, 100), (1, mmap.PAGESIZE)])
def test_range_without_a_whole_page_is_left_alone(mapped, start, end):
    """There is nothing to do, and nothing beyond the range is touched."""
    assert not populate_pages.populate_pages(mapped, start, end)


def test_system_without_the_call_does_without(mapped, monkeypatch):
    """An older kernel refuses; that is no error."""
    monkeypatch.setattr(populate_pages, "_madvise", lambda: lambda *_: -1)
    assert not populate_pages.populate_pages(mapped, 0, len(mapped))
    monkeypatch.setattr(populate_pages, "_madvise", lambda: None)
    assert not populate_pages.populate_pages(mapped, 0, len(mapped))


def test_box_prepares_what_a_busy_ring_needs_next(tmp_path, monkeypatch):
    """Twice what was written since, to the ring's end and on from its start; little written, nothing prepared."""
    asked = []
    monkeypatch.setattr(
        "hearthnet.observability.records.blackbox.populate_pages", lambda _, start, end: asked.append((start, end))
    )
    header = new_header(layout.NODE, "01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "1", None, Sizes(400_000, 50_000))
    box = BlackBox(tmp_path / "telemetry.1.box2", header)
    ring = box.traces

    box._append(box.traces, b"[" + b"1" * 20_000 + b"]")
    box.prepare()
    assert asked == []
    for _ in range(5):
        box._append(box.traces, b"[" + b"1" * 60_000 + b"]")
    box.prepare()
    (first, second) = asked
    assert first == (ring.memory.tell(), ring.size)
    assert second[0] == 0
    assert 0 < second[1] <= ring.memory.tell()
    box.close(remove=True)
    box.prepare()  # nothing is written any more
