"""Compiles a query to an SQL condition with bound values, and shows it as SQL that can be pasted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hearthnet.observability.store.search.conditions import (
    FIELDS,
    TIMES,
    Condition,
    TableName,
    UnclearValueError,
    any_of,
    attribute,
    word,
)
from hearthnet.observability.store.search.language import Problem, Term, Value, is_clean, parse

__all__ = ["Compiled", "compile_query", "is_attribute", "pasted"]

_OTHER: Final[dict[TableName, TableName]] = {"traces": "logs", "logs": "traces"}
_TABLES: Final[dict[TableName, str]] = {"traces": "traces", "logs": "log records"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EVERYTHING: Final = Condition("1")
# Control characters and those that reorder text, which a terminal would not show, and SQLite would take for an end.
_HIDDEN: Final = re.compile("([\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069])")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A query of one table.

    Attributes:
        table: `traces` or `logs`.
        where: the SQL condition over its columns, with a question mark for each value.
        values: the values.
        terms: of the query, which all must hold.
        problems: the parts that are not understood; a query that has any must not be run.
        anytime: the condition without `since` and `until`; None if it has neither.
        since_us: the earliest moment that is searched, UTC microseconds, if the query names one.
        until_us: the moment before which it is searched.
        moments: what each term of a time means, UTC microseconds.
    """

    table: TableName
    where: str = "1"
    values: list[Any] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    anytime: Condition | None = None
    since_us: int | None = None
    until_us: int | None = None
    moments: dict[Term, int] = field(default_factory=dict)


def compile_query(text: str, table: TableName, *, now_us: int) -> Compiled:
    """Returns the condition for a query. Never raises for its text.

    Args:
        text: the query.
        table: that it is for.
        now_us: the present moment, UTC microseconds: `since:2h` is before it.
    """
    parsed = parse(text)
    problems = list(parsed.problems)
    now = _EPOCH + timedelta(microseconds=now_us)
    found: list[tuple[Term, Condition]] = []
    for one in parsed.terms:
        try:
            found.append((one, _condition(one, table, now)))
        except _UnclearTermError as error:
            problems.append(error.problem)
    times = [pair for pair in found if pair[0].field in TIMES and not pair[0].is_attribute]
    whole = _all_of([condition for _, condition in found])
    return Compiled(
        table,
        whole.sql,
        list(whole.values),
        parsed.terms,
        sorted(problems, key=lambda problem: problem.start),
        anytime=_all_of([condition for one, condition in found if (one, condition) not in times]) if times else None,
        since_us=max(_bounds(times, "since"), default=None),
        until_us=min(_bounds(times, "until"), default=None),
        moments={one: condition.values[0] for one, condition in times},
    )


def _bounds(times: list[tuple[Term, Condition]], name: str) -> list[int]:
    return [condition.values[0] for one, condition in times if one.field == name and not one.negated]


class _UnclearTermError(ValueError):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def is_attribute(one: Term, table: TableName) -> bool:
    """Returns whether a term is about an attribute: its name is none of the table's fields."""
    return one.field is not None and (one.is_attribute or one.field not in FIELDS[table])


def _condition(one: Term, table: TableName, now: datetime) -> Condition:
    name = one.field
    if name is not None and not is_clean(name):
        raise _unclear(one, UnclearValueError("the name is not Unicode"))
    if is_attribute(one, table) and not one.is_attribute and name in FIELDS[_OTHER[table]]:
        hint = f'an attribute of that name is written "{name}":…'
        wrong = UnclearValueError(f"{name} is a field of {_TABLES[_OTHER[table]]}, not of {_TABLES[table]}", hint)
        raise _unclear(one, wrong)
    if name in TIMES and not one.is_attribute and len(one.values) > 1:
        raise _unclear(one, UnclearValueError(f"{name} takes one time"))
    found = any_of([_for_value(one, value, table, now) for value in one.values])
    return found.negated() if one.negated else found


def _for_value(one: Term, value: Value, table: TableName, now: datetime) -> Condition:
    try:
        if not is_clean(value.text):
            raise UnclearValueError("the text is not Unicode")
        if one.field is None:
            return word(table, value.text)
        if is_attribute(one, table):
            return attribute(table, one.field, one.op, value)
        return FIELDS[table][one.field](one.op, value, now)
    except UnclearValueError as error:
        raise _unclear(value, error) from None


def _unclear(where: Term | Value, error: UnclearValueError) -> _UnclearTermError:
    return _UnclearTermError(Problem(error.message, error.hint, where.start, where.end))


def _all_of(conditions: list[Condition]) -> Condition:
    if not conditions:
        return _EVERYTHING
    sql = "\n   AND ".join(condition.sql for condition in conditions)
    return Condition(sql, tuple(value for condition in conditions for value in condition.values))


def pasted(sql: str, values: list[Any]) -> str:
    """Returns a statement with its values in place of its question marks, which are nowhere else in it."""
    parts = sql.split("?")
    return parts[0] + "".join(f"{_literal(value)}{part}" for value, part in zip(values, parts[1:], strict=True))


def _literal(value: Any) -> str:
    if not isinstance(value, str):
        return repr(value)
    parts = [
        f"char({ord(part)})" if _HIDDEN.fullmatch(part) else "'" + part.replace("'", "''") + "'"
        for part in _HIDDEN.split(value)
        if part
    ]
    return f"({' || '.join(parts)})" if len(parts) > 1 else (parts or ["''"])[0]
