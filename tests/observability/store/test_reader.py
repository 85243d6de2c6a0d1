"""Pending and committed traces in one order."""

from __future__ import annotations

import pytest
from support.records import a_trace

from hearthnet.observability.store.reader import _joined


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
