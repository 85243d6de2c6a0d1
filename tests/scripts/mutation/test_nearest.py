"""Which tests may notice a change."""

from __future__ import annotations

import pytest
from mutation import nearest as by_lines
from mutation.nearest import Runs, lines_of, nearest

SOURCE = '''"""Doubles."""
from m import numbers


@cached(
    size=numbers(3),
)
def double(number: int) -> int:
    """Doubles."""
    try:
        if number < 0 and (
            number > -5
        ):
            return check(
                number
            )
    except ValueError:
        return 0
    match number:
        case 1: return 2
        case _:
            return 2 * number


def check(number):
    return number

SIZE = check(4)
'''
MODULE = "m.py"


def ran(name, *lines, seconds=1.0, starts_processes=False):
    """Returns a test that has run these lines."""
    return by_lines.Test(name, seconds, {MODULE: list(lines)} if lines else {}, starts_processes)


@pytest.mark.parametrize(
    ("line", "statement"),
    [
        (1, [1]),
        (6, [5, 6, 7, 8]),  # what decorates a function belongs to its head, which runs on import
        (12, [11, 12, 13]),  # the head of a compound statement, not its body
        (15, [14, 15, 16]),
        (17, [17]),
        (18, [18]),
        (20, [20]),
        (21, [21]),
        (22, [22]),
        (23, [23]),  # in no statement
    ],
)
def test_lines_of_a_statement(line, statement):
    """A statement may be broken into several lines, of which a tracer sees some."""
    assert sorted(lines_of(SOURCE, line)) == statement


def test_tests_of_a_change_are_those_that_run_it():
    """And those that start a process, which may; the quickest come first."""
    tests = [
        ran("slow", 11, 14, seconds=9.0),
        ran("quick", 16, seconds=0.1),
        ran("elsewhere", 11, 22, seconds=0.2),
        ran("process", seconds=0.3, starts_processes=True),
    ]

    assert [test.name for test in nearest(Runs(tests, {}), MODULE, SOURCE, 15)] == ["quick", "slow", "process"]


def test_line_that_no_test_runs_may_be_noticed_in_a_process_alone():
    """No other test can."""
    tests = [ran("elsewhere", 11), ran("process", starts_processes=True)]

    assert [test.name for test in nearest(Runs(tests, {MODULE: [1]}), MODULE, SOURCE, 18)] == ["process"]


def test_function_that_runs_on_import_may_be_noticed_by_all_tests():
    """What it returned then is in use everywhere; those that call it, or something beside it, are the nearest."""
    tests = [
        ran("elsewhere", seconds=0.1),
        ran("beside", 11, seconds=0.2),
        ran("caller", 26, seconds=0.3),
    ]

    found = nearest(Runs(tests, {MODULE: [26, 28]}), MODULE, SOURCE, 26)
    assert [test.name for test in found] == ["caller", "beside", "elsewhere"]
