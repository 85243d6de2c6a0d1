"""What need not be noticed, and why, is about lines that exist."""

from __future__ import annotations

import functools

from mutation import reasons, subjects


def test_excused_changes_are_of_lines_that_exist():
    """A reason goes with the line that it is about."""
    for (module, before, after), why in reasons.reasons().items():
        lines = {line.strip() for line in (subjects.ROOT / module).read_text("utf-8").splitlines()}
        assert set(before.splitlines()) <= lines, (module, before)
        assert after != before
        assert why


def test_reason_is_for_one_change_or_all_of_an_operator():
    """A reason for another change of the same line is none."""
    numbers = "connection.execute(rows.SET_WEAR, (1, None, run))"
    find = functools.partial(reasons.reason_for, f"{subjects.PACKAGE}/store/ring.py")

    assert find((numbers, "anything"), "NumberReplacer")
    assert find((numbers, "anything"), "DeleteStatement") is None


def test_change_is_known_by_its_lines_alone():
    """So a reason holds when code around it moves, and for no other change of that line."""
    was, removed, turned = (
        "if x:\n    a = 1\n    b()\n",
        "if x:\n    a = 1\n    pass\n",
        "if not x:\n    a = 1\n    b()\n",
    )

    assert reasons.change_of(was, removed) == ("b()", "pass")
    assert reasons.change_of(f"import a\n{was}", f"import a\n{turned}") == ("if x:", "if not x:")
