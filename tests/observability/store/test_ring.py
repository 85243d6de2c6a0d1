"""The ring's rule, compared with a slow and plain model of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hearthnet.observability.store.ring import Ring

SIZE, NOTABLE_SHARE, ORDINARY_SHARE = 10, 2, 8


def model(rows, seq, notable):
    """The rule in words: when full, a new row replaces the oldest of the class that is over its share."""
    rows = [*rows, (seq, notable)]
    if len(rows) <= SIZE:
        return rows, None
    ordinary = [row for row in rows if not row[1]]
    over = ordinary if len(ordinary) > ORDINARY_SHARE else [row for row in rows if row[1]]
    return [row for row in rows if row != over[0]], over[0][0]


@given(st.lists(st.booleans(), max_size=80))
def test_ring_follows_the_rule(arrivals):
    """For any order of arrivals the ring evicts exactly the rows that the rule says."""
    ring, rows = Ring(SIZE), []
    for seq, notable in enumerate(arrivals):
        rows, expected = model(rows, seq, int(notable))
        assert ring.admit(seq, int(notable)) == expected
        assert len(ring) == len(rows) <= SIZE


@given(st.lists(st.lists(st.booleans(), max_size=25), max_size=8))
def test_batches_follow_the_same_rule(batches):
    """A batch evicts the rows that its records would evict one by one, as ranges of one class each."""
    ring, table, seq = Ring(SIZE), {}, 0
    rows: list = []
    for batch in batches:
        new = [(seq + number, int(notable)) for number, notable in enumerate(batch)]
        seq += len(batch)
        for key, notable in new:
            rows, _ = model(rows, key, notable)
        evicted = ring.admit_all(new)
        for first, last, notable in evicted.ranges:
            table = {k: v for k, v in table.items() if not (first <= k <= last and v == notable)}
        table |= {key: notable for key, notable in new if key not in evicted.unwritten}
        assert sorted(table.items()) == rows
        assert len(ring) == len(rows)


@given(st.lists(st.booleans(), max_size=10), st.integers(1, 12))
def test_eviction_for_space_takes_the_oldest_of_each_class_in_proportion(arrivals, count):
    """When the disk has no space the oldest rows are evicted, from each class in proportion to its share."""
    ring, table = Ring(SIZE), {}
    for seq, notable in enumerate(arrivals):
        ring.admit(seq, int(notable))
        table[seq] = int(notable)
    before = dict(table)
    evicted = ring.evict_oldest(count)
    for first, last, notable in evicted.ranges:
        table = {k: v for k, v in table.items() if not (first <= k <= last and v == notable)}

    assert len(table) == len(ring) == max(0, len(arrivals) - count)
    for kind in (0, 1):
        of_class = [key for key, notable in before.items() if notable == kind]
        kept = [key for key, notable in table.items() if notable == kind]
        assert kept == of_class[len(of_class) - len(kept) :]


@given(st.lists(st.booleans(), min_size=30, max_size=80))
def test_newest_of_either_class_are_safe(arrivals):
    """The other class never evicts the newest two of a class, in any order of arrivals."""
    ring, alive = Ring(SIZE), {}
    for seq, notable in enumerate(arrivals):
        alive[seq] = notable
        alive.pop(ring.admit(seq, int(notable)), None)
        for kind in (True, False):
            newest = [number for number, is_notable in enumerate(arrivals[: seq + 1]) if is_notable is kind][-2:]
            assert all(number in alive for number in newest)


def test_one_class_alone_keeps_the_newest():
    """Successes alone, or failures alone, use the whole ring."""
    for notable in (0, 1):
        ring = Ring(SIZE)
        evicted = [ring.admit(seq, notable) for seq in range(25)]
        assert evicted == [None] * 10 + list(range(15))


def test_flood_of_successes_keeps_the_failures():
    """Two failures survive any number of successes; a third, beyond the share, is evicted first."""
    ring = Ring(SIZE)
    evicted = [ring.admit(seq, 1) for seq in range(3)] + [ring.admit(seq, 0) for seq in range(3, 1_000)]

    assert {0, 1, 2} & set(evicted) == {0}


def test_smaller_ring_evicts_the_surplus():
    """Rows of a table larger than the ring are evicted by the same rule until the rest fits."""
    rows = [(seq, int(seq % 2)) for seq in range(20)]
    ring = Ring(SIZE, rows)

    evicted = ring.shrink()

    assert len(ring) == SIZE
    # Two ordinary rows are over their share of eight; then the notable are over theirs.
    assert evicted == [0, 2, 1, 3, 5, 7, 9, 11, 13, 15]
    assert ring.shrink() == []


@given(st.permutations(range(60)), st.lists(st.integers(1, 9), min_size=8, max_size=60))
def test_late_records_evict_by_number(late, sizes):
    """Threads hand over out of order: deleting the ranges always leaves the newest rows by number."""
    # Threads are late by a few records: each number moves by a few.
    arrivals = [number for _, number in sorted((number + late[number % 60] / 8, number) for number in range(200))]
    ring, table = Ring(20), set()
    for size in sizes:
        batch, arrivals = arrivals[:size], arrivals[size:]
        wanted = set(sorted(table | set(batch))[-20:])
        evicted = ring.admit_all([(seq, 0) for seq in batch])
        for first, last, notable in evicted.ranges:
            assert not notable
            table = {seq for seq in table if not first <= seq <= last}
        table |= set(batch) - evicted.unwritten

        assert table == wanted
