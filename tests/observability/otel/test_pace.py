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
        self.pace = Pace(lambda: self.is_urgent, lambda: self.now, self.moments.append, lambda: self.at)

    @property
    def at(self):
        """Seconds by a clock that goes on while nothing works, too."""
        return self.now + self.waited

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


def run(work, rate, seconds, seq=10_000):
    """Sends batch after batch while rows come at a rate, a second's at once, as with commits; returns how many."""
    begun, sent = work.at, 0
    while work.at - begun < seconds:
        sent += 512
        work.waited += work.pause_after(seq + rate * int(work.at - begun))
    return sent


@pytest.mark.parametrize("rate", [1_000, 5_000])
def test_rows_are_sent_faster_than_they_come(work, rate):
    """But not much faster: the pauses are as long as they may be."""
    run(work, rate, 20)
    sent = run(work, rate, 20, seq=10_000 + 20 * rate)

    assert rate * 20 * pace._LEAD * 0.9 < sent < rate * 20 * pace._LEAD * 1.5


def test_first_rows_of_a_program_are_seen_at_once(work):
    """Nothing is known of the time before; half a ring must not be lost until the first window is over."""
    assert run(work, 5_000, 3) > 10_000


def test_no_pause_where_rows_come_faster_than_they_can_be_sent(work):
    """And a long one again when none has come for a while."""
    work.pause_after(0)
    work.waited += 1.0
    hurried = work.pause_after(500_000)
    pauses = []
    while work.at < 120:
        pauses.append(work.pause_after(500_000))
        work.waited += max(pauses[-1], 0.1)

    assert hurried == 0
    assert pauses[-1] == pytest.approx(WORK_S * pace._FACTOR)


def test_rows_of_another_database_are_no_reason_to_hurry(work):
    """One that was made anew begins at 0; what is known of the old one does not hold."""
    run(work, 5_000, 10)

    assert work.pause_after(0) == pytest.approx(WORK_S * pace._FACTOR)


def test_next_look_comes_before_many_rows(work):
    """A ring holds so many; of a program that records nothing there is no next row."""
    idle = work.pace.due_s(2_500)
    run(work, 5_000, 20)

    assert idle == float("inf")
    assert work.pace.due_s(2_500) == pytest.approx(0.5, rel=0.2)
