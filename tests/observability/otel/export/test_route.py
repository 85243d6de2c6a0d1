"""Rows on their way to a request: in short pieces of work, with a moment for other threads after each."""

from __future__ import annotations

import pytest
from support.records import a_trace

from hearthnet.observability.otel.export import route
from hearthnet.observability.otel.export.mapping import Sender
from hearthnet.observability.otel.export.route import Serial


class Rows:
    """A reader whose store has so many traces, and no runs."""

    def __init__(self, count):
        self.left = [a_trace(n, trace_id="01M8PB3HQC7D4KZXGR0H1X3EKY") for n in range(1, count + 1)]
        self.limits = []

    def rows(self, sql, values=()):
        """The next traces, as the statement's last value says; or the runs of the statement's."""
        if "FROM runs" in sql:
            return []
        self.limits.append(values[-1])
        found, self.left = self.left[: values[-1]], self.left[values[-1] :]
        return [(number, *row[1:-2], *(text.decode() for text in row[-2:])) for number, row in enumerate(found, 1)]


@pytest.fixture
def rests():
    """What had been done when another thread had its moment."""
    return []


def test_rows_are_read_few_at_a_time(rests):
    """No statement takes longer than a piece of work."""
    reader = Rows(100)
    found = Serial("traces", Sender(), reader, is_json=False, rest=lambda: rests.append(1)).read(0, 1_000, 50)

    assert len(found) == 50
    assert max(reader.limits) == route._ROWS_A_STATEMENT
    assert len(rests) == len(reader.limits)


@pytest.mark.parametrize("is_json", [False, True])
def test_each_record_is_a_piece(rests, is_json):
    """Of either format."""
    records = Rows(20).left
    Serial("traces", Sender(), Rows(0), is_json=is_json, rest=lambda: rests.append(1)).encode(records, [])

    assert len(rests) >= len(records)


def test_records_are_freed_few_at_a_time(rests):
    """Half a thousand at once take as long as several pieces."""
    records = Rows(100).left
    Serial("traces", Sender(), Rows(0), is_json=False, rest=lambda: rests.append(len(records))).let_go(records)

    assert records == []
    assert len(rests) == -(-100 // route._ROWS_A_STATEMENT)
    assert sorted(rests, reverse=True) == rests
