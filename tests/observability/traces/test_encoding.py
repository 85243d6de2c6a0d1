"""What of a large trace fits a row: as many spans as there is space for, beside a part of its own fields."""

from __future__ import annotations

import orjson
import pytest

from hearthnet.observability import trace
from hearthnet.observability.traces.encoding import ROOM_BYTES, encoded


def spans_of(count, **extras):
    """Closed spans, all of the same size."""
    with trace.new_trace("a.b") as begun:
        for _ in range(count):
            with trace.span("step", **extras):
                pass
        return list(begun.spans)


@pytest.mark.parametrize("chars", [*range(40), 100, 900])
@pytest.mark.parametrize("own", [{}, {"note": "y" * 1_000}], ids=["none", "note"])
def test_row_is_filled_and_never_more_than_filled(chars, own):
    """Another span would not fit."""
    opened = spans_of(100, text="x" * chars)
    for item in opened:
        item._started_ns, item.closed_ns = item.trace.started_ns + 1_000_000, item.trace.started_ns + 3_000_000
    kept, extras = encoded(opened, own, 0, 0)

    found = orjson.loads(kept)
    one = len(orjson.dumps(found[0])) + 1
    assert ROOM_BYTES - one - len(',"truncated":1000000') <= len(kept) + len(extras) <= ROOM_BYTES
    assert orjson.loads(extras) == {**own, "truncated": 100 - len(found)}


def test_own_fields_leave_three_quarters_to_spans():
    """Theirs is what tells where the time went."""
    kept, extras = encoded(spans_of(500), {f"key{number}": "y" * 2_000 for number in range(8)}, 0, 0)

    assert ROOM_BYTES // 5 < len(extras) <= ROOM_BYTES // 4 + len(',"truncated":500')
    assert len(kept) > ROOM_BYTES * 0.7


@pytest.mark.parametrize("dropped", [0, 3])
def test_spans_that_were_dropped_before_are_counted(dropped):
    """A row that has space for all others lacks none of those."""
    kept, extras = encoded(spans_of(2), {"note": 1}, 0, dropped)

    assert len(orjson.loads(kept)) == 2
    assert orjson.loads(extras) == ({"note": 1, "truncated": 3} if dropped else {"note": 1})
