"""Which tests may notice a change."""

from __future__ import annotations

from mutation import copies

SOURCE = '''"""Doubles."""
SIZE: Final = 3 * 4


def double(number: int | None = 1) -> int | None:
    """Doubles."""
    if number is None:
        raise ValueError(number)
    assert number > 0
    calls.count = 2
    return 2 * int(number)
'''


def test_tests_of_a_change_are_those_that_may_notice_it():
    """These ran the function, or started a process; for a line that runs on import, or in no test, it is all."""
    tests = [
        copies.Test("slow", 9.0, {"m.py": [4, 7]}, starts_processes=False),
        copies.Test("quick", 0.1, {"m.py": [10]}, starts_processes=False),
        copies.Test("elsewhere", 0.2, {"m.py": [4]}, starts_processes=False),
        copies.Test("process", 0.3, {}, starts_processes=True),
    ]

    assert copies.nearest(tests, "m.py", SOURCE, 8) == ["quick", "slow", "process"]
    assert copies.nearest(tests, "m.py", SOURCE, 2) == ["quick", "elsewhere", "process", "slow"]
    assert copies.nearest(tests[2:], "m.py", SOURCE, 8) == ["elsewhere", "process"]
