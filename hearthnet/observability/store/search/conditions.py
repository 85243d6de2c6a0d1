"""The fields of traces and of log records, and the SQL condition for a value of each.

Texts are compared without regard to case. A value in ASCII is compared by SQLite's own `lower`; any other by
`casefold`, which SQLite lacks: `statement.add_functions` adds it to a connection. Ids are exact.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from hearthnet import moments
from hearthnet.constants import LEVELS
from hearthnet.observability.records.ids import canonical
from hearthnet.observability.records.results import RESULTS
from hearthnet.observability.store.search.language import Value

__all__ = [
    "ENDED",
    "FIELDS",
    "SHORT",
    "TIMES",
    "Condition",
    "TableName",
    "UnclearValueError",
    "any_of",
    "attribute",
    "word",
]

TableName = Literal["traces", "logs"]

ENDED: Final[dict[TableName, str]] = {"traces": "started_us + duration_ms * 1e3", "logs": "ts_us"}
TIMES: Final = frozenset({"since", "until"})
_FAILED: Final = "failed"  # any result but ok and cancelled
_NUMBER: Final = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?")
_DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(us|ms|s|m|min|h)?")
_UNITS_MS: Final = {None: 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3, "min": 60e3, "h": 3600e3}
_ID_START: Final = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{0,25}")
_LITERAL: Final = re.compile(r"[ !#-\[\]-~]+")  # of ASCII, what JSON has as it is
# Paths in `spans`, such as $[0] and $[0].extras: deeper ones have more points. To compare them last is cheapest.
_SPAN_NAME: Final = "key = 'name' AND {} AND path NOT LIKE '%.%'"
_IN_EXTRAS: Final = "path LIKE '$[%].extras' AND path NOT LIKE '%.%.%'"
# JSON's true, false and null are 1, 0 and NULL in the column `value`.
_JSON_TEXT: Final = "iif(type IN ('true', 'false', 'null'), type, {})"


class Condition(NamedTuple):
    """A condition in SQL, with a question mark for each of its values."""

    sql: str
    values: tuple[Any, ...] = ()

    def negated(self) -> Condition:
        """Returns the condition that holds where this one is false or NULL."""
        return Condition(f"({self.sql}) IS NOT TRUE", self.values)


class UnclearValueError(ValueError):
    """Raised when a field does not take a value."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


# Attributes of traces that have a long name of OpenTelemetry's, and a short one besides.
SHORT: Final[Mapping[str, str]] = {"status": "http.response.status_code"}

# Given an operator, a value and the present moment, the condition.
Field = Callable[[str, Value, datetime], Condition]


def any_of(conditions: list[Condition]) -> Condition:
    """Returns the condition that holds where one of these does."""
    if len(conditions) == 1:
        return conditions[0]
    return Condition(
        f"({' OR '.join(one.sql for one in conditions)})", tuple(value for one in conditions for value in one.values)
    )


# --- texts


def _folded(expression: str, text: str) -> tuple[str, str]:
    """Returns an expression and a text so that they are equal without regard to case."""
    if text.isascii() and "\0" not in text:  # at which `lower` ends
        return f"lower({expression})", text.lower()
    return f"casefold(ifnull({expression}, '') || '')", text.casefold()


def _is(expression: str, value: Value) -> Condition:
    folded, text = _folded(expression, value.text)
    return Condition(f"instr({folded}, ?) = 1" if value.is_prefix else f"{folded} = ?", (text,))


def _contains(expression: str, text: str) -> Condition:
    folded, text = _folded(expression, text)
    return Condition(f"instr({folded}, ?)", (text,))


def _only_is(op: str) -> None:
    if op != ":":
        raise UnclearValueError(f"{op} is for numbers, durations and levels")


def _text(column: str) -> Field:
    def made(op: str, value: Value, _: datetime) -> Condition:
        _only_is(op)
        return _is(column, value)

    return made


def _part_of(column: str) -> Field:
    def made(op: str, value: Value, _: datetime) -> Condition:
        _only_is(op)
        return _contains(column, value.text)

    return made


def _component(op: str, value: Value, _: datetime) -> Condition:
    """A logger and its children, with or without the name of the package."""
    _only_is(op)
    names = [value.text, f"hearthnet.{value.text}"]
    exact = [_is("logger", Value(name, value.is_prefix)) for name in names]
    return any_of([*exact, *(_is("logger", Value(f"{name}.", is_prefix=True)) for name in names)])


def _program(op: str, value: Value, _: datetime) -> Condition:
    _only_is(op)
    inner = _is("program", value)
    return Condition(f"run_id IN (SELECT run_id FROM runs WHERE {inner.sql})", inner.values)  # noqa: S608  # constants


def _id(column: str) -> Field:
    """An id or the beginning of one, in either case; of a trace also the hexadecimal digits that W3C has."""

    def made(op: str, value: Value, _: datetime) -> Condition:
        _only_is(op)
        text = value.text.upper() if value.text.isascii() else ""
        if not _ID_START.fullmatch(text):
            raise UnclearValueError(
                f"{value.text!r} is no id, nor the beginning of one", "an id is a ULID: 26 letters and digits"
            )
        if canonical(text):
            return Condition(f"{column} = ?", (text,))
        return Condition(f"instr({column}, ?) = 1", (text,))

    return made


def _exactly(column: str) -> Field:
    def made(op: str, value: Value, _: datetime) -> Condition:
        _only_is(op)
        return Condition(f"{column} = ?", (value.text,))

    return made


def _result(op: str, value: Value, _: datetime) -> Condition:
    _only_is(op)
    if value.is_prefix:
        return _is("result", value)
    wanted = value.text.lower()
    if wanted == _FAILED:
        return Condition("result NOT IN ('ok', 'cancelled')")
    return Condition("result = ?", (_known(wanted, [*sorted(RESULTS), _FAILED], "result"),))


def _level(op: str, value: Value, _: datetime) -> Condition:
    at = LEVELS.index(_known(value.text.lower(), LEVELS, "level"))
    wanted = {">": LEVELS[at + 1 :], ">=": LEVELS[at:], "<": LEVELS[:at], "<=": LEVELS[: at + 1]}.get(op, (LEVELS[at],))
    return Condition(f"level IN ({', '.join('?' * len(wanted))})", tuple(wanted))


def _known(name: str, names: tuple[str, ...] | list[str], noun: str) -> str:
    if name in names:
        return name
    alike = difflib.get_close_matches(name, names, 2)
    listed = ", ".join(names)
    hint = f"did you mean {' or '.join(alike)}?" if alike else f"there are: {listed}"
    raise UnclearValueError(f"there is no {noun} {name!r}", hint)


# --- numbers and times


def _duration(op: str, value: Value, _: datetime) -> Condition:
    if op == ":":
        raise UnclearValueError("a duration is compared", f"duration:>={value.text}, or duration:<{value.text}")
    match = None if value.is_prefix else _DURATION.fullmatch(value.text)
    if match is None:
        raise UnclearValueError(f"{value.text!r} is no duration", "use 150ms, 2s, 1.5m or 1h")
    return Condition(f"duration_ms {op} ?", (float(match[1]) * _UNITS_MS[match[2]],))


def _moment(op: str, value: Value, now: datetime, *, ended: str, sign: str) -> Condition:
    if op != ":":
        raise UnclearValueError("a time takes no comparison", "since:TIME is at or after it, until:TIME before it")
    try:
        return Condition(f"{ended} {sign} ?", (moments.parse(value.text, now),))
    except ValueError as error:
        message, _, hint = str(error).partition(": ")
        raise UnclearValueError(message, hint or None) from None


# --- within JSON


def _of_attribute(op: str, value: Value) -> Condition:
    """Returns the condition for a row of `json_each`."""
    number = float(value.text) if _NUMBER.fullmatch(value.text) and not value.is_prefix else None
    if op != ":":
        if number is None:
            raise UnclearValueError(f"{value.text!r} is no number", "attributes are compared with numbers")
        return Condition(f"type IN ('integer', 'real') AND value {op} ?", (number,))
    written = _is(_JSON_TEXT.format("value"), value)
    if number is None:
        return written
    return any_of([written, Condition("type IN ('integer', 'real') AND value = ?", (number,))])


def _row_of(source: str, condition: Condition) -> Condition:
    return Condition(f"EXISTS (SELECT 1 FROM {source} WHERE {condition.sql})", condition.values)  # noqa: S608  # constants


def _is_literal(text: str) -> bool:
    return _LITERAL.fullmatch(text) is not None


def _likely(expression: str, text: str, condition: Condition) -> Condition:
    """Returns the condition behind a quick look for a text: only where it is found, JSON is parsed."""
    return Condition(f"(instr({expression}, ?) AND {condition.sql})", (text, *condition.values))


def attribute(table: TableName, name: str, op: str, value: Value) -> Condition:
    """Returns the condition for an attribute: a field of the extras, of a trace or of one of its spans.

    Raises:
        UnclearValueError: raised when it is compared with something that is no number.
    """
    if table == "traces" and name in SHORT:
        return any_of([_attribute(table, one, op, value) for one in (name, SHORT[name])])
    return _attribute(table, name, op, value)


def _attribute(table: TableName, name: str, op: str, value: Value) -> Condition:
    test = _of_attribute(op, value)
    found = Condition(f"key = ? AND {test.sql}", (name, *test.values))
    own = _likely_attribute("extras", name, op, value, _row_of("json_each(extras)", found))
    if table == "logs":
        return own
    of_spans = _row_of("json_tree(spans)", Condition(f"{found.sql} AND {_IN_EXTRAS}", found.values))
    return any_of([own, _likely_attribute("spans", name, op, value, of_spans)])


def _likely_attribute(column: str, name: str, op: str, value: Value, condition: Condition) -> Condition:
    # A number may be written in several ways.
    if op == ":" and _is_literal(value.text) and not _NUMBER.fullmatch(value.text):
        condition = _likely(f"lower({column})", value.text.lower(), condition)
    return _likely(column, f'"{name}"', condition) if _is_literal(name) else condition


_SHOWN: Final = f"ifnull(key, '') || '=' || ifnull({_JSON_TEXT.format('atom')}, '')"


def _span(op: str, value: Value, _: datetime) -> Condition:
    _only_is(op)
    return _of_span_name(_is("atom", value), value.text)


def _of_span_name(test: Condition, text: str) -> Condition:
    named = _row_of("json_tree(spans)", Condition(_SPAN_NAME.format(test.sql), test.values))
    return _likely("lower(spans)", text.lower(), named) if _is_literal(text) else named


def word(table: TableName, text: str) -> Condition:
    """Returns the condition for a text that is somewhere in a record: in the extras as `name=value`."""
    columns = {"traces": ("capability", "result", "error"), "logs": ("msg", "logger", "exc")}[table]
    extras = _row_of("json_tree(extras)", _contains(_SHOWN, text))
    is_likely = _is_literal(text) and "=" not in text
    found = [_contains(column, text) for column in columns]
    found.append(_likely("lower(extras)", text.lower(), extras) if is_likely else extras)
    if table == "traces":
        found.append(_of_span_name(_contains("atom", text), text))
    return any_of(found)


# --- which fields there are

_SHARED: Final[dict[str, Field]] = {
    "trace": _id("trace_id"),
    "trace_id": _id("trace_id"),
    "run": _id("run_id"),
    "run_id": _id("run_id"),
    "program": _program,
}


def _times(table: TableName) -> dict[str, Field]:
    ended = ENDED[table]
    return {"since": partial(_moment, ended=ended, sign=">="), "until": partial(_moment, ended=ended, sign="<")}


FIELDS: Final[Mapping[TableName, Mapping[str, Field]]] = {
    "traces": {
        "cap": _text("capability"),
        "capability": _text("capability"),
        "version": _text("version"),
        "result": _result,
        "error": _part_of("error"),
        "duration": _duration,
        "duration_ms": _duration,
        "span": _span,
        "parent": _exactly("parent_id"),
        "parent_id": _exactly("parent_id"),
        **_SHARED,
        **_times("traces"),
    },
    "logs": {
        "level": _level,
        "logger": _text("logger"),
        "component": _component,
        "msg": _part_of("msg"),
        "exc": _part_of("exc"),
        "span_id": _exactly("span_id"),
        **_SHARED,
        **_times("logs"),
    },
}
