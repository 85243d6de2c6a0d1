"""When the telemetry thread works, and for how long: who waits for what."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hearthnet.observability.store.pacer import Pace, Pacer

DRAIN = {"at_once": True, "skip_gap": True}
ONE_COMMIT = {**DRAIN, "one_commit": True}


@pytest.fixture
def pacer():
    """A pacer of a thread that is not running."""
    return Pacer(SimpleNamespace(wake=None), Pace())


@pytest.mark.parametrize(
    ("wakes", "must_drain"),
    [
        ([], False),
        ([{"at_once": True}], False),
        ([DRAIN], True),
        ([ONE_COMMIT], False),
        ([ONE_COMMIT, DRAIN], True),
        ([DRAIN, ONE_COMMIT], True),
    ],
)
def test_who_waits_for_one_commit_does_not_wait_for_later_records(pacer, wakes, must_drain):
    """At a thousand records a second some always arrive during a commit: to drain the buffers would never end."""
    for wake in wakes:
        pacer.wake(**wake)

    assert pacer.begin() is must_drain
    assert pacer.begin() is False


def test_last_round_drains(pacer):
    """Whatever was asked for before."""
    pacer.wake(**ONE_COMMIT)
    pacer.stop()

    assert pacer.begin() is True
