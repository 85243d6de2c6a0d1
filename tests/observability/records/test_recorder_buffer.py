"""The hand-over: bounded, nothing lost uncounted, nothing lost by a failed commit."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.observability.records.recorder import Buffer


def test_records_come_out_in_order():
    """The oldest records are taken first."""
    buffer = Buffer(10)
    for number in range(5):
        buffer.offer(number)

    assert buffer.take(3) == [0, 1, 2]


def test_batch_that_is_not_confirmed_comes_again():
    """A commit that failed loses nothing: the same records are taken again, and more behind them."""
    buffer = Buffer(10)
    for number in range(3):
        buffer.offer(number)
    buffer.take(2)

    assert buffer.take(10) == [0, 1, 2]
    buffer.confirm()
    assert buffer.take(10) == []


def test_full_buffer_keeps_the_newest_and_counts_the_rest():
    """Without a writer the oldest records are dropped, and counted once."""
    buffer = Buffer(3)
    for number in range(10):
        buffer.offer(number)

    assert buffer.snapshot() == [7, 8, 9]
    assert buffer.take_dropped() == 7
    assert buffer.take_dropped() == 0


def test_what_is_in_flight_is_never_pushed_out():
    """Records that may be committed already stay until confirmed; the queue behind them gives way."""
    buffer = Buffer(4)
    for number in range(4):
        buffer.offer(number)
    buffer.take(2)
    for number in range(4, 10):
        buffer.offer(number)

    assert buffer.take(2) == [0, 1]
    assert buffer.snapshot() == [0, 1, 8, 9]
    assert buffer.take_dropped() == 6


def test_buffer_of_one_keeps_the_newest():
    """The smallest there is."""
    buffer = Buffer(1)
    buffer.offer(1)
    buffer.offer(2)

    assert (buffer.snapshot(), buffer.take_dropped()) == ([2], 1)


def test_offer_waits_for_no_lock_while_there_is_space():
    """The writer may be stopped while it holds it; only to drop a record takes the lock."""
    buffer = Buffer(4)
    caller = threading.Thread(target=lambda: [buffer.offer(number) for number in range(4)], daemon=True)
    with buffer._lock:
        caller.start()
        caller.join(10)
        assert not caller.is_alive()

    assert buffer.snapshot() == [0, 1, 2, 3]


@pytest.mark.parametrize("capacity", [0, -1])
def test_capacity_must_be_positive(capacity):
    """A buffer that could hold nothing is refused."""
    with pytest.raises(ValueError, match="capacity"):
        Buffer(capacity)


@given(st.lists(st.sampled_from(["offer", "take", "confirm", "lost"]), max_size=200))
def test_every_record_is_accounted_for(steps):
    """Offered is pending plus confirmed plus lost, after any sequence of calls."""
    buffer = Buffer(5)
    offered = confirmed = lost = 0
    batch = 0
    for step in steps:
        if step == "offer":
            buffer.offer(offered)
            offered += 1
        elif step == "take":
            batch = len(buffer.take(3))
        elif step == "confirm":
            buffer.confirm()
            confirmed, batch = confirmed + batch, 0
        else:
            lost += buffer.take_dropped()
    lost += buffer.take_dropped()

    assert offered == len(buffer) + confirmed + lost


def test_threads_lose_nothing_uncounted():
    """With eight producers and a consumer at work, every record is taken or counted, and none twice."""
    buffer = Buffer(500)
    stop = threading.Event()
    taken: list[tuple[int, int]] = []

    def produce(name):
        for number in range(5_000):
            buffer.offer((name, number))

    def consume():
        while not stop.is_set() or len(buffer):
            taken.extend(buffer.take(100))
            buffer.confirm()

    consumer = threading.Thread(target=consume)
    producers = [threading.Thread(target=produce, args=(name,)) for name in range(8)]
    consumer.start()
    for thread in producers:
        thread.start()
    for thread in producers:
        thread.join()
    stop.set()
    consumer.join()

    assert len(set(taken)) == len(taken)
    assert len(taken) + buffer.take_dropped() == 8 * 5_000


def test_smaller_batch_takes_part_of_what_was_in_flight():
    """After a batch failed, a smaller one is its oldest records; the rest waits, in order, and none is lost."""
    buffer = Buffer(100)
    for number in range(30):
        buffer.offer(number)
    assert len(buffer.take(20)) == 20

    assert buffer.take(5) == [0, 1, 2, 3, 4]
    assert buffer.snapshot() == list(range(30))
    buffer.confirm()
    assert buffer.take(10) == list(range(5, 15))
    buffer.put_back(3)
    assert buffer.take(4) == [5, 6, 7, 8]
