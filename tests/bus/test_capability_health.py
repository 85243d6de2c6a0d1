"""Health: figures over the last calls, quarantine, and the probe that ends it, with a test clock."""

from __future__ import annotations

import pytest

from hearthnet.bus.capability import Health


class Clock:
    """A monotonic clock in seconds, advanced by the test."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Returns the time."""
        return self.now


@pytest.fixture
def clock():
    """The time."""
    return Clock()


@pytest.fixture
def health(clock):
    """A healthy entry without calls."""
    return Health(clock)


def record(health: Health, *, good: int = 0, bad: int = 0) -> None:
    """Records that many successes, then that many failures."""
    for ok in [True] * good + [False] * bad:
        health.record(ok=ok, duration_ms=1.0)


@pytest.fixture
def quarantined(health):
    """An entry that has just been quarantined."""
    record(health, bad=20)
    return health


def test_new_entry_lets_calls_through(health):
    """Without calls there are no figures and no quarantine."""
    assert health.admit() == 0
    assert (health.calls, health.success_rate, health.quantile_ms(0.5), health.is_quarantined) == (
        0,
        None,
        None,
        False,
    )


def test_success_rate_is_over_all_calls(health):
    """Three of four is 0.75."""
    record(health, good=3, bad=1)

    assert (health.calls, health.success_rate) == (4, 0.75)


def test_only_the_last_hundred_calls_count(health):
    """Failures outside the window do not count."""
    record(health, good=51, bad=49)
    record(health, good=100)

    assert (health.calls, health.success_rate) == (100, 1.0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.99, 5.0), (1.0, 5.0)])
def test_quantiles(health, share, expected):
    """The quantile of the durations, whatever their order."""
    for duration in (5.0, 1.0, 4.0, 2.0, 3.0):
        health.record(ok=True, duration_ms=duration)

    assert health.quantile_ms(share) == expected


def test_nineteen_failures_say_nothing_yet(health, clock):
    """Below twenty calls nothing is quarantined."""
    record(health, bad=19)

    assert (health.admit(), health.is_quarantined) == (0, False)
    record(health, bad=1)
    assert health.is_quarantined
    assert clock.now == 1_000.0


@pytest.mark.parametrize(("good", "bad", "quarantined"), [(10, 10, False), (9, 11, True), (50, 50, False)])
def test_half_is_the_limit(health, good, bad, quarantined):
    """A success rate of exactly half is sufficient, less is not."""
    record(health, good=good, bad=bad)

    assert health.is_quarantined is quarantined


def test_quarantine_lasts_sixty_seconds(quarantined, clock):
    """Every call is refused with the remaining time, until the end."""
    assert quarantined.admit() == 60_000
    clock.now += 59.5
    assert quarantined.admit() == 500
    clock.now += 0.4999
    assert quarantined.admit() >= 1
    clock.now += 0.0001
    assert quarantined.admit() == 0


def test_one_call_probes(quarantined, clock):
    """After the quarantine one call is admitted; the others wait for its outcome."""
    clock.now += 60

    assert quarantined.admit() == 0
    assert [quarantined.admit() > 0 for _ in range(3)] == [True, True, True]


def test_good_probe_ends_the_quarantine(quarantined, clock):
    """Calls are admitted again, and earlier failures do not count."""
    clock.now += 60
    quarantined.admit()
    record(quarantined, good=1)

    assert (quarantined.is_quarantined, quarantined.admit(), quarantined.success_rate) == (False, 0, 1.0)
    record(quarantined, bad=18)
    assert not quarantined.is_quarantined


def test_bad_probe_begins_a_new_quarantine(quarantined, clock):
    """Sixty more seconds from the end of the probe; then another probe."""
    clock.now += 60
    quarantined.admit()
    clock.now += 5
    record(quarantined, bad=1)

    assert quarantined.is_quarantined
    assert quarantined.admit() == 60_000
    clock.now += 60
    assert quarantined.admit() == 0


def test_skipped_probe_is_followed_by_another(quarantined, clock):
    """A cancelled probe decides nothing: the quarantine continues, and the next call is the probe."""
    clock.now += 60
    quarantined.admit()
    quarantined.skip()

    assert quarantined.is_quarantined
    assert quarantined.admit() == 0
    assert quarantined.admit() > 0


def test_skipped_calls_are_not_counted(health):
    """A skipped outcome changes no figure."""
    record(health, good=1)
    for _ in range(30):
        health.skip()

    assert (health.calls, health.success_rate, health.is_quarantined) == (1, 1.0, False)
