"""Pending and committed traces in one order."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support.records import a_trace
from support.stores import put

from hearthnet.constants import DATABASE, SALVAGE
from hearthnet.errors import StoreError
from hearthnet.observability.store.reader import Reader, _joined


def rows(*found):
    """Traces by run and number, as `own 3`."""
    return [a_trace(int(number), run) for run, number in map(str.split, found)]


@pytest.mark.parametrize(
    ("pending", "committed", "expected"),
    [
        ((), ("own 2", "own 1"), ("own 2", "own 1")),
        (("own 4", "own 3"), ("own 2", "own 1"), ("own 4", "own 3", "own 2", "own 1")),
        (("own 2", "own 1"), ("other 9", "other 8"), ("own 2", "own 1", "other 9", "other 8")),
        # Committed since they were looked at, and a newer one with them.
        (("own 2", "own 1"), ("own 3", "own 2", "own 1"), ("own 3", "own 2", "own 1")),
        # The same, of which the query returned only the newest.
        (("own 3", "own 2", "own 1"), ("own 5", "own 4", "own 3"), ("own 5", "own 4", "own 3", "own 2", "own 1")),
        # A thread was slow to hand it over: it is pending, newer ones are committed.
        (
            ("own 6", "own 3"),
            ("own 5", "other 7", "own 4", "own 2"),
            ("own 6", "own 5", "other 7", "own 4", "own 3", "own 2"),
        ),
    ],
)
def test_pending_and_committed_in_one_order(pending, committed, expected):
    """Newest first, each once, whatever the writer has committed between the two looks."""
    assert _joined(rows(*pending), rows(*committed)) == rows(*expected)


def test_a_text_that_is_none_hides_no_other_row(tmp_path):
    """A byte has flipped on the card: the row is shown with a mark in its place, and so are those around it."""
    path = tmp_path / "telemetry.db"
    put(path, [a_trace(number) for number in (1, 2, 3)])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE traces SET capability = CAST(x'61ff62' AS TEXT) WHERE number = 2")
    reader = Reader(path)

    found = reader.recent(10)
    assert [record.number for record in found] == [3, 2, 1]
    assert found[1].capability == "a\ufffdb"
    reader.close()


def test_damage_comes_with_what_still_works(tmp_path):
    """At night a bare error of SQLite is no help: the log and the diagnosis of a run need no whole database."""
    (tmp_path / DATABASE).write_bytes(b"x" * 4_096)
    with pytest.raises(StoreError, match="cannot be read: file is not a database") as raised:
        Reader(tmp_path / DATABASE).recent(1)

    assert raised.value.hint == SALVAGE
