"""The JSON log's files under clocks that are set, wrong, or beyond all calendars."""

from __future__ import annotations

import pytest
from support.daily_files import DAY_S, NOON_S, line, numbers, total

from hearthnet.observability.logs.daily_file import DailyFile, log_paths

YEAR_S = 366 * DAY_S


def test_file_of_the_next_day_is_no_older_than_this_one(tmp_path):
    """Another process may have begun it a moment ago; one of the day after that is a wrong clock's, and goes first."""
    for name in ("2026-11-22", "2026-11-25", "2026-11-26"):
        tmp_path.joinpath(f"{name}.log").write_bytes(line(0, 600_000))
    file = DailyFile(tmp_path, clock=lambda: NOON_S, max_bytes=1_900_000)
    file.write(line(1), NOON_S)
    assert [path.stem for path in log_paths(tmp_path)] == ["2026-11-22", "2026-11-24", "2026-11-25"]

    file.limit(1_300_000)
    assert [path.stem for path in log_paths(tmp_path)] == ["2026-11-24", "2026-11-25"]


def test_files_of_a_wrong_clock_are_the_first_to_go(tmp_path):
    """Files dated years ahead, which would never be the oldest, make room for the one that is being written."""
    for part in range(8):
        (tmp_path / (f"2036-01-01.{part}.log" if part else "2036-01-01.log")).write_bytes(b"x" * 500_000)
    file = DailyFile(tmp_path, clock=lambda: NOON_S, max_bytes=4_000_000)
    for number in range(2_000):
        file.write(line(number), NOON_S)
    ours = [path for path in log_paths(tmp_path) if path.name.startswith("2026")]

    assert sum(path.read_bytes().count(b"\n") for path in ours) == 2_000
    assert total(tmp_path) <= 4_000_000


@pytest.mark.parametrize(
    ("now_s", "name"),
    [(-1.0, "1969-12-31.log"), (-DAY_S, "1969-12-31.log"), (-DAY_S - 1, "1969-12-30.log"), (0.0, "1970-01-01.log")],
)
def test_clock_before_1970_loses_nothing(tmp_path, now_s, name):
    """A machine without a battery for its clock starts anywhere."""
    file = DailyFile(tmp_path, clock=lambda: now_s)
    file.write(line(1), now_s)
    file.write(line(2), now_s)

    assert (tmp_path / name).read_bytes() == line(1) + line(2)
    assert file.dropped_lines == 0


@pytest.mark.parametrize(("before_s", "after_s"), [(NOON_S, NOON_S + 3_650 * DAY_S), (60.0, NOON_S)])
def test_clock_that_steps_removes_nothing(tmp_path, before_s, after_s):
    """A clock that jumps by years, or is set after a boot in 1970, is no reason to remove what was logged."""
    now = [before_s]
    file = DailyFile(tmp_path, clock=lambda: now[0])
    file.write(line(1), now[0])
    now[0] = after_s
    file.write(line(2), now[0])

    assert sorted(numbers(tmp_path)) == [1, 2]


@pytest.mark.parametrize("wrong_s", [NOON_S + 12 * YEAR_S, 4_102_444_800.0])
def test_start_with_a_wrong_clock_removes_no_file(tmp_path, wrong_s):
    """As of a machine whose battery is empty: its log of an hour ago is not twelve years old."""
    for now_s in (NOON_S - DAY_S, NOON_S, wrong_s, NOON_S):
        file = DailyFile(tmp_path, clock=lambda now_s=now_s: now_s)
        file.write(line(int(now_s)), now_s)
        file.close()

    assert sorted(numbers(tmp_path)) == sorted(map(int, (NOON_S - DAY_S, NOON_S, NOON_S, wrong_s)))


def test_clock_that_stays_is_believed(tmp_path):
    """A year after the last log the files go all the same, with the next day's first line."""
    for days in (0, 400, 401):
        file = DailyFile(tmp_path, clock=lambda days=days: NOON_S + days * DAY_S)
        file.write(line(days), NOON_S + days * DAY_S)
        file.close()

    assert numbers(tmp_path) == [400, 401]


def test_month_without_a_log_is_no_wrong_clock(tmp_path):
    """A program that runs once a month keeps no file for longer than it should."""
    for days in (0, 30, 60):
        file = DailyFile(tmp_path, clock=lambda days=days: NOON_S + days * DAY_S)
        file.write(line(days), NOON_S + days * DAY_S)
        file.close()

    assert numbers(tmp_path) == [60]


@pytest.mark.parametrize("now_s", [1e12, 9e18, -1e12, 253_402_300_799.0, -62_135_596_800.0])
def test_clock_beyond_all_years_costs_no_line(tmp_path, now_s):
    """A day that has no name is in the file of the last one that has, or of the first."""
    file = DailyFile(tmp_path, clock=lambda: now_s)
    file.write(line(1), now_s)
    file.write(line(2), now_s + 1)

    assert numbers(tmp_path) == [1, 2]
    assert file.dropped_lines == 0
