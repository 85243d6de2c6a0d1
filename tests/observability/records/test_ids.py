"""Ids: what python-ulid says of ours, and uniqueness across threads and forks."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.threads import at_once
from ulid import ULID

from hearthnet.observability.records import ids


@given(st.integers(min_value=0, max_value=2**48 - 1), st.sampled_from([0, 1, 500_000, 999_999]), st.booleans())
@example(0, 0, True)
@example(0, 1, True)
@example(1_023, 999_999, True)
@example(1_024, 0, False)
@example(2_048, 0, True)
def test_trace_id_carries_its_time(ms, more_ns, is_first):
    """python-ulid reads from a minted id the very millisecond that it was minted for, which is kept for the next."""
    if is_first:
        ids.id_source.reseed()
    minted = ids.new_trace_id(ms * 1_000_000 + more_ns)

    assert ULID.from_str(minted).milliseconds == ms
    assert str(ULID.from_str(minted)) == minted
    assert ids.id_source.moment == (ms * 1_000_000, (ms + 1) * 1_000_000, minted[:10])


def test_trace_ids_rise_within_a_second(monkeypatch):
    """Ids of one second sort in the order in which they were minted, those of one millisecond among them."""
    monkeypatch.setattr(ids.id_source, "tails", ids._Tails(0))  # one start in a thousand has the counter begin anew
    minted = [ids.new_trace_id(1_700_000_000_000_000_000 + number // 10 * 1_000_000) for number in range(1_000)]

    assert minted == sorted(set(minted))


def test_counter_that_runs_over_begins_anew(monkeypatch):
    """After its last value the next id is still valid and new."""
    now_ns = 1_700_000_000_000_000_000
    monkeypatch.setattr(ids.id_source, "tails", ids._Tails(2**20 - ids._DRAWN_IDS))

    minted = [ids.new_trace_id(now_ns) for _ in range(2 * ids._DRAWN_IDS)]

    assert all(map(ids.is_trace_id, minted))
    assert len(set(minted)) == len(minted)
    assert minted[ids._DRAWN_IDS][10:14] == "0000"


def test_low_bits_are_fresh_for_each_id():
    """What ratio samplers decide by: a tenth of the ids of one second is kept, not all or none; no bit leans."""
    low = [int(ULID.from_str(ids.new_trace_id(1_700_000_000_000_000_000))) % 2**56 for _ in range(4_000)]
    kept = sum(number < 2**56 // 10 for number in low)
    ones = [sum(number >> bit & 1 for number in low) for bit in range(56)]

    # Six standard deviations: 4,000 tosses of a coin deviate as much once in half a thousand million times.
    assert abs(kept - 400) < 6 * 19
    assert all(abs(count - 2_000) < 7 * 31.6 for count in ones)
    assert max(Counter(number >> 36 for number in low).values()) < 10


def test_threads_mint_no_id_twice():
    """Eight threads that mint at once never share an id."""
    minted: list[list[str]] = [[] for _ in range(8)]

    def mint(into):
        into.extend(ids.new_trace_id() for _ in range(5_000))
        into.extend(ids.new_span_id() for _ in range(5_000))

    at_once(mint, minted)
    everything = [value for into in minted for value in into]

    assert len(set(everything)) == len(everything)


def test_span_id_is_never_all_zeros(monkeypatch):
    """That is no span id in W3C's headers; its neighbours stay as they were drawn."""
    ids.id_source.reseed()
    monkeypatch.setattr(ids.os, "urandom", lambda size: bytes(size - 8) + bytes(range(8)))
    minted = [ids.new_span_id() for _ in range(ids._DRAWN_IDS)]

    assert "0" * 16 not in minted
    assert minted[-1] == "0001020304050607"
    monkeypatch.undo()
    ids.id_source.reseed()


def test_forked_child_mints_other_ids():
    """A child does not repeat the ids that its parent mints next."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, f"{ids.new_trace_id(1)} {ids.new_span_id()}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode().split()
    os.close(reading)
    os.close(writing)

    assert set(theirs).isdisjoint({ids.new_trace_id(1), ids.new_span_id()})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01HXR",
        "8" + "0" * 25,
        "01hxr4z6w5s9e2jq4y0t7b3m1c",
        "01HXR4Z6W5S9E2JQ4Y0T7B3M1U",
        "0" * 27,
        "0" * 25 + "\n",
    ],
)
def test_what_is_no_canonical_ulid_is_refused(text):
    """Wrong length, alphabet, case or range: not a trace id."""
    assert not ids.is_trace_id(text)


class Raising:
    """An object whose text is an error."""

    def __str__(self):
        raise RuntimeError("no text")


class Text(str):
    """A type of text of the program's own."""

    __slots__ = ()


GIVEN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [
        (GIVEN, GIVEN),
        (GIVEN.lower(), GIVEN),
        (Text(GIVEN), GIVEN),
        (Text(GIVEN.lower()), GIVEN),
        (ULID.from_str(GIVEN), GIVEN),
        (GIVEN.replace("S", "\u017f"), None),  # its capital is S
        (GIVEN[:-1], None),
        (GIVEN + "\n", None),
        ("", None),
        (None, None),
        (7, None),
        (GIVEN.encode(), None),
        (Raising(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_id_of_a_caller_is_taken_in_its_canonical_spelling(given_id, expected):
    """As text or as an object whose text it is; anything else is none."""
    assert ids.canonical(given_id) == expected
