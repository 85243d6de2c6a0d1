"""Calls in flight from boxes that come and go while they are read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hearthnet.forensics import box as layout
from hearthnet.observability import telemetry, trace
from hearthnet.observability.store.query import flights


@pytest.fixture
def directory(observability):
    """The folder of a store in which this process has a trace in flight."""
    with telemetry.open(observability), trace.new_trace("a.b"):
        yield observability.data_dir


def test_living_and_what_they_do(directory):
    """By header and table alone."""
    (view,) = flights.boxes(directory)

    assert flights.living(directory) == {view.header.run_id}
    assert [call.capability for call in view.in_flight] == ["a.b"]


def test_living_of_one_role(directory):
    """As status asks for: of the node, which may be in another container, where its pid says nothing."""
    (view,) = flights.boxes(directory)

    assert flights.living(directory, layout.LIBRARY) == {view.header.run_id}
    assert flights.living(directory, layout.NODE) == set()


def test_box_that_is_recovered_while_it_is_read_is_passed_over(directory, monkeypatch):
    """Another process removes it between two looks."""
    monkeypatch.setattr(layout, "is_alive", lambda _: False)
    monkeypatch.setattr(layout, "is_locked", Path.unlink)

    assert flights.boxes(directory) == []
    assert flights.living(directory) == set()


def test_box_of_a_dead_run_is_read_once(directory, tmp_path, monkeypatch):
    """Until it has another content: what a dead run left does not change while it is looked at every two seconds."""
    read = []
    real = layout.read_box
    monkeypatch.setattr(layout, "is_alive", lambda _: False)
    monkeypatch.setattr(layout, "is_locked", lambda _: False)
    monkeypatch.setattr(layout, "read_box", lambda path: read.append(path) or real(path))
    (box,) = map(Path, shutil.copytree(directory, tmp_path / "dead").glob("*.box2"))  # which no one writes
    os.utime(box, ns=(1, 1))
    views = [flights.boxes(box.parent) for _ in range(3)]

    assert [call.capability for call in views[0][0].in_flight] == ["a.b"]
    assert (views[1], views[2], read) == (views[0], views[0], [box])
    os.utime(box, ns=(2, 2))
    flights.boxes(box.parent)
    assert read == [box, box]
    with box.open("r+b") as file:
        file.seek(layout.HEARTBEAT_AT)
        file.write(b"\1")
    os.utime(box, ns=(2, 2))  # what is written through a mapping changes it late, if at all
    flights.boxes(box.parent)
    assert read == [box, box, box]
