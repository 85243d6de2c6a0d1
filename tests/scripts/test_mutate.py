"""The mutation run: what it changes, what it leaves, and that its table is true."""

from __future__ import annotations

import ast
import functools

import mutate
import pytest

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


@pytest.mark.parametrize("name", mutate.SUBJECTS)
def test_table_names_modules_and_tests_that_exist(name):
    """Also a module that was renamed would have no survivors."""
    subject = mutate.SUBJECTS[name]

    for module in subject.modules:
        assert (mutate.ROOT / mutate.PACKAGE / module).is_file(), module
    for tests in subject.tests:
        assert (mutate.ROOT / mutate.TESTS / tests).exists(), tests
    assert subject.modules


def test_every_module_of_recovery_is_in_the_table():
    """A folder that is listed by name must be listed in full."""
    listed = {
        mutate.ROOT / mutate.PACKAGE / module for subject in mutate.SUBJECTS.values() for module in subject.modules
    }
    modules = set((mutate.ROOT / mutate.PACKAGE / "store/recovery").glob("*.py"))

    assert {path.name for path in modules - listed} == {"__init__.py"}


def test_excused_changes_are_of_lines_that_exist():
    """A reason goes with the line that it is about."""
    for (module, before, after), why in mutate.reasons().items():
        lines = {line.strip() for line in (mutate.ROOT / module).read_text("utf-8").splitlines()}
        assert set(before.splitlines()) <= lines, (module, before)
        assert after != before
        assert why


def test_reason_is_for_one_change_or_all_of_an_operator():
    """A reason for another change of the same line is none."""
    numbers = "connection.execute(rows.SET_WEAR, (1, None, run))"
    find = functools.partial(mutate.reason_for, f"{mutate.PACKAGE}/store/ring.py")

    assert find((numbers, "anything"), "NumberReplacer")
    assert find((numbers, "anything"), "DeleteStatement") is None


def test_change_is_known_by_its_lines_alone():
    """So a reason holds when code around it moves, and for no other change of that line."""
    was, removed, turned = (
        "if x:\n    a = 1\n    b()\n",
        "if x:\n    a = 1\n    pass\n",
        "if not x:\n    a = 1\n    b()\n",
    )

    assert mutate.change_of(was, removed) == ("b()", "pass")
    assert mutate.change_of(f"import a\n{was}", f"import a\n{turned}") == ("if x:", "if not x:")


def test_tests_of_a_change_are_those_that_may_notice_it():
    """These ran the function, or started a process; for a line that runs on import, or in no test, it is all."""
    tests = [
        mutate.Test("slow", 9.0, {"m.py": [4, 7]}, starts_processes=False),
        mutate.Test("quick", 0.1, {"m.py": [10]}, starts_processes=False),
        mutate.Test("elsewhere", 0.2, {"m.py": [4]}, starts_processes=False),
        mutate.Test("process", 0.3, {}, starts_processes=True),
    ]

    assert mutate.nearest(tests, "m.py", SOURCE, 8) == ["quick", "slow", "process"]
    assert mutate.nearest(tests, "m.py", SOURCE, 2) == ["quick", "elsewhere", "process", "slow"]
    assert mutate.nearest(tests[2:], "m.py", SOURCE, 8) == ["elsewhere", "process"]


def changed_lines() -> dict[str, set[str]]:
    """Returns what each operator makes of the lines of SOURCE."""
    made: dict[str, set[str]] = {}
    for mutant, source in mutate.sample(SOURCE, 0, 1):
        ast.parse(source)
        new = [line.strip() for line in source.splitlines() if line not in SOURCE.splitlines()]
        made.setdefault(mutant.operator, set()).update(new)
    return made


def test_mutants_are_what_a_slip_would_be():
    """Statements without effect, calls passed over, turned conditions; the rest of a module is as it was."""
    pytest.importorskip("cosmic_ray")
    made = changed_lines()

    assert made["DeleteStatement"] == {"pass"}
    assert made["PassArgument"] == {"raise (number)", "return 2 * (number)"}
    assert made["AddNot"] == {"if not number is None:"}
    lines = set().union(*made.values())
    assert "calls.count = 3" in lines or "calls.count = 1" in lines
    assert not [line for line in lines if "Final" in line or "assert" in line]
    assert [line for line in lines if "def" in line] == ["def double(number: int | None = 2) -> int | None:"]


def test_sample_is_the_same_for_a_seed_and_another_for_another():
    """So a score can be repeated; it has as many as were asked for, each of another place."""
    pytest.importorskip("cosmic_ray")
    first, again, other = (mutate.sample(SOURCE, 4, seed) for seed in (1, 1, 2))

    assert first == again != other
    assert len({(mutant.start, mutant.operator) for mutant, _ in first}) == 4
