"""Results, and how they are shown: a table for people, one JSON document for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from benchmarks.stats import Spread

__all__ = ["Aim", "Line", "Section", "are_whole", "as_json", "as_table", "count"]

_NAME: Final = 36
_VALUE: Final = 15
_RATIO: Final = 18
_AIM: Final = 8
_WIDTH: Final = _NAME + 2 * _VALUE + _RATIO + _AIM + len("met") + 5


@dataclass(frozen=True, slots=True)
class Aim:
    """What is wanted of a line.

    Attributes:
        limit: the bound.
        at_least: whether the bound is a floor; else it is a ceiling.
        of: which figure is bound, `ratio` or `measured`.
    """

    limit: float
    at_least: bool = False
    of: str = "ratio"

    def text(self) -> str:
        """Returns the bound as the table shows it."""
        return f"{'>=' if self.at_least else '<='} {self.limit:.3g}"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was measured.

    Attributes:
        name: what.
        measured: of ours.
        unit: of `measured` and `against`.
        against: the same of the floor or the peer; None where there is none.
        ratio: ours divided by theirs, turn by turn.
        aim: what is wanted, or None where the line is there to be known.
        is_whole: whether all that was made has arrived; a figure of less meets no aim.
    """

    name: str
    measured: Spread
    unit: str
    against: Spread | None = None
    ratio: Spread | None = None
    aim: Aim | None = None
    is_whole: bool = True

    def met(self) -> bool | None:
        """Tells whether the median meets the aim; None where there is none, or nothing to compare."""
        bound = None if self.aim is None else self.ratio if self.aim.of == "ratio" else self.measured
        if self.aim is None or bound is None:
            return None
        if not self.is_whole:
            return False
        return bound.median >= self.aim.limit if self.aim.at_least else bound.median <= self.aim.limit

    def as_dict(self) -> dict[str, Any]:
        """Returns the line for the JSON document."""
        return {**asdict(self), "met": self.met()}


@dataclass(slots=True)
class Section:
    """Lines that belong together.

    Attributes:
        title: what they have in common, with the unit.
        against: what they are measured against.
        lines: in the order in which they are shown.
        notes: what else is to be known.
    """

    title: str
    against: str
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Returns the section for the JSON document."""
        lines = [line.as_dict() for line in self.lines]
        return {"title": self.title, "against": self.against, "lines": lines, "notes": self.notes}


def count(sections: Iterable[Section], is_met: bool) -> int:
    """Returns how many aims were met, or missed."""
    return sum(line.met() is is_met for section in sections for line in section.lines)


def are_whole(sections: Iterable[Section]) -> bool:
    """Tells whether every line is of work that was done in full."""
    return all(line.is_whole for section in sections for line in section.lines)


def as_json(benchmark: str, machine: dict[str, Any], is_quick: bool, sections: Iterable[Section]) -> str:
    """Returns everything as one JSON document."""
    document = {
        "benchmark": benchmark,
        "quick": is_quick,
        "machine": machine,
        "sections": [section.as_dict() for section in sections],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def as_table(machine: dict[str, Any], is_quick: bool, sections: Iterable[Section]) -> str:
    """Returns everything as text of at most 100 columns."""
    lines = [textwrap.fill(f"{name}: {value}", _WIDTH, subsequent_indent="  ") for name, value in machine.items()]
    if is_quick:
        lines.append("quick: few and short rounds; look at the ranges before believing a median")
    for section in sections:
        lines += ["", *_section(section)]
    return "\n".join(lines)


def _section(section: Section) -> list[str]:
    head = _row(section.title, "ours", section.against, "ratio (range)", "aim", "met")
    return [head, "-" * _WIDTH, *map(_line, section.lines), *map(_note, section.notes)]


def _note(note: str) -> str:
    return textwrap.fill(note, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _line(line: Line) -> str:
    met = {True: "yes", False: "NO", None: ""}[line.met()]
    against = "" if line.against is None else _number(line.against.median, line.unit)
    ratio = f"{line.ratio.median:.2f} {_range(line.ratio)}" if line.ratio is not None else _range(line.measured)
    aim = "" if line.aim is None else line.aim.text()
    return _row(line.name, _number(line.measured.median, line.unit), against, ratio, aim, met)


def _row(name: str, ours: str, against: str, ratio: str, aim: str, met: str) -> str:
    row = f"{name:<{_NAME}} {ours:>{_VALUE}} {against:>{_VALUE}} {ratio:>{_RATIO}} {aim:>{_AIM}} {met:>3}"
    return row.rstrip()


def _range(spread: Spread) -> str:
    return f"({spread.low:.2f}-{spread.high:.2f})"


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 1_000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f} {unit}"
