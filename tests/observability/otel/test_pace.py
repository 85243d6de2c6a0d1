"""How fast rows are exported: pauses in proportion to the work, but rows are sent faster than they come."""

from __future__ import annotations

import pytest

from hearthnet.observability.otel import pace
from hearthnet.observability.otel.pace import Pace

WORK_S = 0.01


class Work:
    """Clocks, of which that of CPU time goes on by work alone, and the moments for which the lock was given up."""

    def __init__(self):
        self.now = 100.0
        self.waited = 0.0
        self.moments = []
        self.is_urgent = False
        self.pace = Pace(lambda: self.is_urgent, lambda: self.now, self.moments.append, lambda: self.now + self.waited)

    def count_moments(self, seconds):
        """How many moments a piece of work is followed by."""
        before = len(self.moments)
        self.now += seconds
        self.pace.rest()
        return len(self.moments) - before

    def pause_after(self, seq, rows=512, seconds=WORK_S):
        """The pause after a batch, in a store whose last row has this seq."""
        self.pace.begin(seq)
        self.pace.take(rows)
        self.now += seconds
        return self.pace.end()


@pytest.fixture
def work():
    """The pace of a signal."""
    return Work()


def test_lock_is_given_up_after_each_piece_of_work(work):
    """A little work is not worth it, and adds up."""
    work.pace.begin(10)

    assert [work.count_moments(pace._PIECE_S * 0.6) for _ in range(4)] == [0, 1, 0, 1]
    assert set(work.moments) == {pace._MOMENT_S}


def test_pause_after_a_batch_is_many_times_as_long_as_its_work(work):
    """So that another thread meets it seldom. A batch ends once."""
    assert work.pause_after(10_000) == pytest.approx(WORK_S * pace._FACTOR)
    assert work.pace.end() == 0


def test_no_pause_while_it_is_urgent(work):
    """The program ends."""
    work.is_urgent = True
    work.pace.begin(10)

    assert work.count_moments(1.0) == 0
    assert work.pace.end() == 0


def test_a_backlog_alone_is_no_reason_to_hurry(work):
    """It shrinks at whatever pace: also the first look at one, after a week offline."""
    pauses = []
    for _ in range(3):
        pauses.append(work.pause_after(10_000))
        work.waited += pauses[-1]

    assert pauses == pytest.approx([WORK_S * pace._FACTOR] * 3)


def test_rows_are_sent_faster_than_they_come(work):
    """Where they come at 5,000 a second, 512 of them leave time for less than a tenth."""
    seq, sent = 10_000, 0
    work.waited += work.pause_after(seq)
    begun = work.now + work.waited
    for _ in range(20):
        seq += round((work.now + work.waited - begun) * 5_000)
        begun, sent = work.now + work.waited, sent + 512
        work.waited += work.pause_after(seq)

    took = work.now + work.waited - begun
    assert 512 / took == pytest.approx(5_000 * pace._LEAD, rel=0.01)


def test_no_pause_where_rows_come_faster_than_they_can_be_sent(work):
    """And a long one again as soon as none comes."""
    work.pause_after(0)
    hurried = work.pause_after(10_000)
    work.waited += 1.0

    assert hurried == 0
    assert work.pause_after(10_000) == pytest.approx(WORK_S * pace._FACTOR)


def test_rows_that_vanish_are_no_reason_to_hurry(work):
    """A database that was made anew begins at 0."""
    work.pause_after(10_000)
    work.waited += 1.0

    assert work.pause_after(0) == pytest.approx(WORK_S * pace._FACTOR)
