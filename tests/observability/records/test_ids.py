"""Ids: what python-ulid says of ours, and uniqueness across threads and forks."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.threads import at_once
from ulid import ULID

from hearthnet.observability.records import ids


@given(st.integers(min_value=0, max_value=2**48 - 1))
def test_trace_id_carries_its_time(ms):
    """python-ulid reads from a minted id the very millisecond that it was minted for."""
    minted = ids.new_trace_id(ms * 1_000_000)

    assert ULID.from_str(minted).milliseconds == ms
    assert str(ULID.from_str(minted)) == minted


def test_trace_ids_rise_within_a_second():
    """Ids of one second sort in the order in which they were minted, those of one millisecond among them."""
    minted = [ids.new_trace_id(1_700_000_000_000_000_000 + number // 10 * 1_000_000) for number in range(1_000)]

    assert minted == sorted(set(minted))


def test_counter_that_runs_over_draws_a_new_head(monkeypatch):
    """When a second's tails are used up, the next id is still valid and new."""
    first = ids.new_trace_id(1_700_000_000_000_000_000)
    monkeypatch.setattr(ids.id_source.second, "next_tail", lambda: 1 << 20)

    second = ids.new_trace_id(1_700_000_000_000_000_000)

    assert ids.is_trace_id(second)
    assert second != first


def test_threads_mint_no_id_twice():
    """Eight threads that mint at once never share an id."""
    minted: list[list[str]] = [[] for _ in range(8)]

    def mint(into):
        into.extend(ids.new_trace_id() for _ in range(5_000))
        into.extend(ids.new_span_id() for _ in range(5_000))

    at_once(mint, minted)
    everything = [value for into in minted for value in into]

    assert len(set(everything)) == len(everything)


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
