"""What is changed, and what stays as it is."""

from __future__ import annotations

import ast

import pytest
from mutation import mutants

SOURCE = '''"""Doubles."""
SIZE: Final = 3 * 4
TYPE_CHECKING = False
SIZES: Final = 2 * SIZE
T = TypeVar("T")


def double(number: int | None = 1) -> int | None:
    """Doubles."""
    if number is None:
        raise ValueError(number)
    assert number > 0
    calls.count = 2
    return 2 * int(number)


@dataclass(frozen=True, slots=True)
class Pair:
    pass


class Named(Protocol):
    @property
    def name(self) -> str:
        """Its name."""
'''


def changed_lines() -> dict[str, set[str]]:
    """Returns what each operator makes of the lines of SOURCE."""
    made: dict[str, set[str]] = {}
    for mutant, source in mutants.sample(SOURCE, 0, 1):
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
    assert "@dataclass(frozen=False, slots=True)" in lines
    left = ("Final", "assert", "CHECKING", "slots=False", 'T = ("T")')
    assert not [line for line in lines if any(part in line for part in left)]
    assert [mutant.operator for mutant, _ in mutants.sample(SOURCE, 0, 1)].count("RemoveDecorator") == 1
    assert [line for line in lines if "def" in line] == ["def double(number: int | None = 2) -> int | None:"]


def test_sample_is_the_same_for_a_seed_and_another_for_another():
    """So a score can be repeated; it has as many as were asked for, each of another place."""
    pytest.importorskip("cosmic_ray")
    first, again, other = (mutants.sample(SOURCE, 4, seed) for seed in (1, 1, 2))

    assert first == again != other
    assert len({(mutant.start, mutant.operator) for mutant, _ in first}) == 4
