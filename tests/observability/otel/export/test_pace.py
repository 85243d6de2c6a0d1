"""How fast rows are exported: pauses in proportion to the work, shorter ones where rows would be lost."""

from __future__ import annotations

import pytest

from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.observability.otel.export import pace
from hearthnet.observability.otel.export.pace import Pace

MANY = TRACE_RING_BUFFER - 1
WORK_S = 0.000_4


class Work:
    """A clock of CPU time, which goes on by work alone, and the pauses that were made."""

    def __init__(self):
        self.now = 100.0
        self.pauses = []
        self.is_urgent = False
        self.pace = Pace(lambda: self.is_urgent, lambda: self.now, self.pauses.append)

    def pause_after(self, seconds):
        """The pause after some work; 0 if there is none."""
        before = len(self.pauses)
        self.now += seconds
        self.pace.rest()
        return self.pauses[-1] if len(self.pauses) > before else 0


@pytest.fixture
def work():
    """A batch that has just begun."""
    made = Work()
    made.pace.begin(10)
    return made


def test_pauses_are_several_times_as_long_as_the_work(work):
    """So that another thread meets it seldom; a little work is not worth one, and adds up."""
    assert work.pause_after(0.000_15) == 0
    assert work.pause_after(0.000_15) == pytest.approx(0.003)
    assert work.pause_after(0.000_15) == 0


def test_work_that_nothing_could_interrupt_has_a_bounded_pause(work):
    """A record of a megabyte does not stop the export."""
    assert work.pause_after(5.0) == pace._MAX_PAUSE_S


def test_no_pause_while_it_is_urgent(work):
    """The program ends."""
    work.is_urgent = True

    assert work.pause_after(1.0) == 0


def test_a_backlog_alone_is_no_reason_to_hurry(work):
    """It shrinks at whatever pace: also the first look at one, after a week offline."""
    usual = work.pause_after(WORK_S)
    fresh = Work()
    for behind in (MANY, MANY - 512, MANY - 1_024):
        fresh.pace.begin(behind)
        assert fresh.pause_after(WORK_S) == usual


def test_backlog_that_grows_shortens_the_pauses(work):
    """Down to a least one; they stay short until rows are far from being lost, and then grow again."""
    usual = work.pause_after(WORK_S)
    pauses = []
    for behind in range(MANY - 20, MANY):
        work.pace.begin(behind)
        pauses.append(work.pause_after(WORK_S))

    assert pauses[:3] == pytest.approx([usual / 2, usual / 4, usual / 8])
    assert pauses[-1] == pytest.approx(WORK_S * pace._LEAST_FACTOR)
    work.pace.begin(MANY - 1_000)
    assert work.pause_after(WORK_S) == pytest.approx(pauses[-1])
    for _ in range(10):
        work.pace.begin(512)
    assert work.pause_after(WORK_S) == pytest.approx(usual)


def test_outage_is_no_reason_to_hurry(work):
    """Rows become more then, whatever is done; and what comes after it is a backlog."""
    usual = work.pause_after(WORK_S)
    for behind in range(MANY - 20, MANY):
        work.pace.begin(behind, is_taken=False)

    assert work.pause_after(WORK_S) == usual


def test_few_rows_are_no_reason_to_hurry(work):
    """A burst into a ring that is nearly empty."""
    usual = work.pause_after(WORK_S)
    work.pace.begin(1_000)

    assert work.pause_after(WORK_S) == usual
