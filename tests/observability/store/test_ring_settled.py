"""Up to which number all records of a run are settled, whatever order they come in."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from hearthnet.observability.store.ring import Settled

numbered = st.permutations(range(1, 31))


@given(numbered, st.lists(st.integers(1, 9), min_size=30, max_size=30), st.sets(st.integers(1, 30)))
def test_settled_is_the_end_of_what_is_complete(order, sizes, dropped):
    """Whatever order the numbers come in: it is the number below which none is missing, and `after` says so before."""
    settled, seen = Settled(), set()
    left = [number for number in order if number not in dropped]
    for size in sizes:
        batch, left = sorted(left[:size]), left[size:]
        seen.update(batch)
        complete = next(number for number in range(32) if number + 1 not in seen)
        assert settled.after(batch) == complete
        settled.add(batch)
        assert settled.number == complete


@given(numbered, st.sets(st.integers(1, 30)), st.integers(0, 30), st.integers(0, 30))
def test_missing_numbers_are_given_up_after_two_rounds(order, dropped, first, second):
    """A number that is missing at two calls in a row is given up; one that was given meanwhile is waited for."""
    settled, seen = Settled(), set()
    arrived = [number for number in order if number not in dropped]
    waited_for = 0
    for until in (first, second, 30, 30):
        settled.add(sorted(arrived[len(seen) : until]))
        seen.update(arrived[:until])
        before = settled.number
        settled.give_up()
        assert settled.number >= max(before, waited_for)
        waiting = set(range(1, settled.number + 1)) - seen
        assert all(number <= max(before, waited_for) for number in waiting)
        waited_for = max((number for number in seen if number > settled.number), default=0)

    assert settled.number == max(arrived, default=0)


def test_skipped_numbers_join_what_is_ahead():
    """What was dropped is skipped, and what had come already above it is settled with it."""
    settled = Settled()
    settled.add([1, 2, 6, 7])
    settled.skip(4)
    assert settled.number == 4
    settled.add([5])
    assert settled.number == 7
    settled.skip(3)
    assert settled.number == 7


@example([(-1, 3, 1)], 5)  # one that is settled already, and one ahead
@example([(0, 3, 1)], 3)  # as many as are missing, but not these
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 4), st.integers(0, 4)), max_size=12), st.integers(0, 5))
def test_numbers_are_settled_once_whatever_comes_again(batches, skipped):
    """Some that are settled already, or lie ahead, with others or on their own: `after` is what a plain count says."""
    settled, seen = Settled(), {*range(1, skipped + 1)}
    settled.skip(skipped)
    for offset, length, hole in batches:
        first = max(1, settled.number + 1 + offset)
        batch = sorted({*range(first, first + length)} - {first + hole}) or [first]
        seen.update(batch)
        assert settled.after(batch) == next(number for number in range(99) if number + 1 not in seen)
        settled.add(batch)
        assert settled.highest() == max(seen)


def test_numbers_behind_one_that_is_given_up_are_settled_with_it():
    """At once: a kill would have recovery look for them."""
    settled = Settled()
    settled.add([1, 3])
    settled.give_up()
    settled.add([4])
    settled.give_up()
    assert settled.number == 4


def test_highest_settled_number_is_the_one_skipped_to():
    """Whether or not numbers below it had come."""
    settled = Settled()
    settled.add([5, 8])
    assert (settled.number, settled.highest()) == (0, 8)
    settled.skip(6)
    assert (settled.number, settled.highest()) == (6, 8)
    settled.skip(10)
    assert (settled.number, settled.highest()) == (10, 10)


def test_number_that_comes_after_it_was_given_up_settles_no_other():
    """As many numbers as are missing may be others: late ones, and one ahead."""
    settled = Settled()
    settled.skip(2)
    settled.add([1, 2, 5])
    assert (settled.number, settled.highest()) == (2, 5)
    settled.add([2, 3, 4])
    assert settled.number == 5
