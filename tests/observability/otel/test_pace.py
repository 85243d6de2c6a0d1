"""How fast rows are exported: pauses in proportion to the work, shorter ones where rows would be lost."""

from __future__ import annotations

import pytest

from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.observability.otel import pace
from hearthnet.observability.otel.pace import Pace

MANY = TRACE_RING_BUFFER - 1
WORK_S = 0.01


class Work:
    """A clock of CPU time, which goes on by work alone, and the moments for which the lock was given up."""

    def __init__(self):
        self.now = 100.0
        self.moments = []
        self.is_urgent = False
        self.pace = Pace(lambda: self.is_urgent, lambda: self.now, self.moments.append)

    def count_moments(self, seconds):
        """How many moments a piece of work is followed by."""
        before = len(self.moments)
        self.now += seconds
        self.pace.rest()
        return len(self.moments) - before

    def pause_after(self, behind, seconds=WORK_S, **named):
        """The pause after a batch, when so many rows wait."""
        self.pace.begin(behind, **named)
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


def test_pause_after_a_batch_is_several_times_as_long_as_its_work(work):
    """So that another thread meets it seldom; after the longest work it is bounded."""
    assert work.pause_after(10) == pytest.approx(WORK_S * pace._FACTOR)
    assert work.pause_after(10, 5.0) == pace._MAX_PAUSE_S
    assert work.pace.end() == 0


def test_no_pause_while_it_is_urgent(work):
    """The program ends."""
    work.is_urgent = True
    work.pace.begin(10)

    assert work.count_moments(1.0) == 0
    assert work.pace.end() == 0


def test_a_backlog_alone_is_no_reason_to_hurry(work):
    """It shrinks at whatever pace: also the first look at one, after a week offline."""
    pauses = [work.pause_after(behind) for behind in (MANY, MANY - 512, MANY - 1_024)]

    assert pauses == pytest.approx([WORK_S * pace._FACTOR] * 3)


def test_backlog_that_grows_shortens_the_pauses(work):
    """Down to a least one; they stay short until rows are far from being lost, and then grow again."""
    usual = work.pause_after(10)
    pauses = [work.pause_after(behind) for behind in range(MANY - 20, MANY)]

    assert pauses[:3] == pytest.approx([usual / 2, usual / 4, usual / 8])
    assert pauses[-1] == pytest.approx(WORK_S * pace._LEAST_FACTOR)
    assert work.pause_after(MANY - 1_000) == pytest.approx(pauses[-1])
    assert [work.pause_after(512) for _ in range(10)][-1] == pytest.approx(usual)


def test_outage_is_no_reason_to_hurry(work):
    """Rows become more then, whatever is done; and what comes after it is a backlog."""
    usual = work.pause_after(10)
    for behind in range(MANY - 20, MANY):
        work.pause_after(behind, is_taken=False)

    assert work.pause_after(MANY - 1) == pytest.approx(usual)


def test_few_rows_are_no_reason_to_hurry(work):
    """A burst into a ring that is nearly empty."""
    assert work.pause_after(1_000) == pytest.approx(work.pause_after(10))
