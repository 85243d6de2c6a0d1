"""Numbers and times in the words of the command line, and ticks where the clock changes."""

from __future__ import annotations

import time

import pytest
from support.browser import NEEDS_CHROMIUM

from hearthnet import display, moments
from hearthnet.cli.main import printable

pytestmark = NEEDS_CHROMIUM
HOUR = 3_600_000_000
BERLIN_DAY = 1_792_879_200_000_000  # 2026-10-25T00:00+02:00; at three o'clock it is two again


def test_words_are_those_of_the_command_line(sheet, monkeypatch):
    """Durations, sizes, times of a zone, and hostile texts."""
    durations = [12, 46, 312.4, 999, 1_000, 46_400, 119_900, 120_000, 7_200_000, 172_800_000, 10**10]
    assert [sheet.call("duration", ms) for ms in durations] == [moments.duration(ms / 1e3) for ms in durations]
    assert [sheet.call("duration", ms) for ms in (0, 0.004, 0.43, 9.87)] == ["0 ms", "0.00 ms", "0.43 ms", "9.87 ms"]
    sizes = [0, 312, 999, 1_000, 24_600, 10**6, 1_234_500_000, 78_600_000_000]
    assert [sheet.call("bytes", size) for size in sizes] == [display.size(size) for size in sizes]
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for us in (BERLIN_DAY, BERLIN_DAY + 2 * HOUR, BERLIN_DAY + 3 * HOUR + 7_201_999, 0, -1_000):
            assert sheet.call("clock", us, "Europe/Berlin") == moments.local(us)
    finally:
        monkeypatch.undo()
        time.tzset()
    for text in ("plain words", "\x1b[31m\x00", "\u202eevil", "\u05d0\u05d1 ok", "line\nbreak"):
        assert sheet.call("printable", text) == printable(text)


@pytest.mark.parametrize("us", [2**63, -(2**63), None, "soon"])
def test_moment_out_of_range_is_unknown(sheet, us):
    """It is no error."""
    assert sheet.call("clock", us, "UTC") == ("unknown time" if us is not None else sheet.call("clock", 0, "UTC"))
    assert sheet.call("timeTicks", us, us, 5, "UTC") == [] or us is None


def test_day_on_which_the_clock_goes_back_has_25_hours(sheet):
    """As far apart as any, and two o'clock is there twice, each with its offset."""
    ticks = sheet.call("timeTicks", BERLIN_DAY, BERLIN_DAY + 25 * HOUR - 1, 25, "Europe/Berlin")

    assert [tick["us"] for tick in ticks] == [BERLIN_DAY + number * HOUR for number in range(25)]
    assert [tick["label"] for tick in ticks[:5]] == ["00:00", "01:00", "02:00 +02:00", "02:00 +01:00", "03:00"]
    assert ticks[-1]["label"] == "23:00"


def test_ticks_stay_round_where_the_clock_changes(sheet):
    """Wider ones are at round local times on both sides; none is before the other, none repeats."""
    spring = 1_774_738_800_000_000  # 2026-03-29T00:00+01:00
    for day in (BERLIN_DAY, spring):
        ticks = sheet.call("timeTicks", day, day + 23 * HOUR, 8, "Europe/Berlin")
        labels = [tick["label"][:5] for tick in ticks]

        assert labels == [f"{hour:02}:00" for hour in (3 * number % 24 for number in range(8 + (day == spring)))]
        assert sum("+" in tick["label"] for tick in ticks) == 2
        assert sorted({tick["us"] for tick in ticks}) == [tick["us"] for tick in ticks]


def test_tick_at_an_hour_that_does_not_exist_is_no_second_one(sheet):
    """Every two hours, where the clock jumps from two to three: each label is there once."""
    spring = 1_774_738_800_000_000  # 2026-03-29T00:00+01:00
    ticks = sheet.call("timeTicks", spring, spring + 22 * HOUR, 12, "Europe/Berlin")
    labels = [tick["label"][:5] for tick in ticks]

    assert len(set(labels)) == len(labels)
    assert sorted({tick["us"] for tick in ticks}) == [tick["us"] for tick in ticks]
    assert sum("+" in tick["label"] for tick in ticks) == 2


@pytest.mark.parametrize(("most", "top"), [(0, 1), (1, 1), (3, 4), (38, 40), (41, 60), (99, 100), (0.03, 0.04)])
def test_axis_ends_at_a_round_number(sheet, most, top):
    """The least of a few round ones that is not below."""
    assert sheet.call("axisTop", most) == pytest.approx(top)
