"""The overview: figures are kept for a while, but never those of another run or another store."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support.records import a_trace
from support.stores import put, unreserved

from hearthnet.constants import DATABASE
from hearthnet.observability.store.query import flights
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.page.source import Page, PageSettings
from hearthnet.transport.page.views import Overview

__all__ = ["unreserved"]


@pytest.fixture
def overview(tmp_path):
    """The overview of a store with the run of a node."""
    put(tmp_path / DATABASE, runs=[("run", "ed25519:x")])
    with closing(Page(PageSettings(tmp_path, None, 256), Grants(None))) as page:
        yield Overview(page)


def recovered(path, run_id):
    """Makes a run what recovery makes of one that was killed in a call."""
    put(path, [a_trace(1, run_id, result="interrupted")])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET end_reason = 'unclean' WHERE run_id = ?", (run_id,))


def in_flight(overview):
    """The ids of the calls that it shows in flight."""
    return [flight["trace_id"] for flight in overview.now()["in_flight"]]


def test_calls_of_a_dead_run_are_there_at_once(overview, tmp_path):
    """Where a look at the store lies right before its recovery: no figure that is kept hides them."""
    assert in_flight(overview) == []
    recovered(tmp_path / DATABASE, "run")
    assert in_flight(overview) == ["run-1"]


def test_calls_of_a_dead_run_are_read_once(overview, tmp_path, monkeypatch):
    """They are looked for in the whole ring, and someone looks every two seconds."""
    read = []
    real = flights.interrupted
    monkeypatch.setattr(flights, "interrupted", lambda reader, run_id: read.append(run_id) or real(reader, run_id))
    recovered(tmp_path / DATABASE, "run")

    assert [in_flight(overview) for _ in range(3)] == [["run-1"]] * 3
    assert read == ["run"]


def test_another_store_has_its_own_figures(overview, tmp_path):
    """At once, also where the dead run is the same: a store that was made anew has lost its calls."""
    recovered(tmp_path / DATABASE, "run")
    before = overview.now()
    other = tmp_path / "other.db"
    put(other, [a_trace(number) for number in (1, 2, 3)], runs=[("run", "ed25519:x")])
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("UPDATE runs SET end_reason = 'unclean'")
        connection.execute("UPDATE traces SET started_us = ?", (before["now_us"],))
    other.replace(tmp_path / DATABASE)
    after = overview.now()

    assert (before["totals"]["count"], len(before["in_flight"])) == (0, 1)
    assert (after["totals"]["count"], after["in_flight"]) == (3, [])
