"""The answer of a query as a table for people, as JSON, and as CSV."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Any, Final

import click
import orjson

from hearthnet.cli.output import console, printable, table
from hearthnet.observability.store.query import Answer

__all__ = ["csv_lines", "json_lines", "print_table", "shown"]

_WHOLE_CHARS: Final = 30  # a value so short, an id or a time, is never broken into two lines
_CELL_CHARS: Final = 1_000  # of a value on a terminal; --json has it whole


def shown(value: Any) -> str:
    """Returns a value as the table has it: as sqlite3 would print it, control characters spelled out."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, float):
        text = f"{value:.15g}"
        return text if not text.lstrip("-").isdigit() else f"{text}.0"
    return printable(value)


def print_table(answer: Answer) -> None:
    """Prints a table: as wide as it needs to be, but on a terminal fitted into it.

    There, long values go on below, and where the columns do not fit beside each other, each row is a block of lines.
    """
    is_terminal = sys.stdout.isatty()
    names = [printable(name) for name in answer.columns]
    rows = [[_cut(shown(value)) if is_terminal else shown(value) for value in row] for row in answer.rows]
    longest = [max([len(name), *(len(row[place]) for row in rows)]) for place, name in enumerate(names)]
    needed = sum(min(length, _WHOLE_CHARS) + 1 for length in longest)
    if is_terminal and needed > shutil.get_terminal_size().columns:
        _print_blocks(answer, names, rows)
    else:
        _print_columns(answer, names, rows, longest)


def _print_blocks(answer: Answer, names: list[str], rows: list[list[str]]) -> None:
    width = max(map(len, names))
    for values, texts in zip(answer.rows, rows, strict=True):
        for name, value, text in zip(names, values, texts, strict=True):
            click.echo(f"{click.style(f'{name:<{width}}', bold=True)}  {click.style(text, dim=value is None or None)}")
        click.echo()


def _print_columns(answer: Answer, names: list[str], rows: list[list[str]], longest: list[int]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.text import Text

    made = table(*map(escape, names))
    for place, column in enumerate(made.columns):
        column.justify = "right" if _is_number(answer.rows, place) else "left"
        column.overflow = "fold"
        column.no_wrap = longest[place] <= _WHOLE_CHARS
    for values, texts in zip(answer.rows, rows, strict=True):
        made.add_row(*(Text(text, "dim" if value is None else "") for value, text in zip(values, texts, strict=True)))
    # Wide characters take two columns.
    wide = 2 * sum(longest) + len(names) + 1
    (console() if sys.stdout.isatty() else Console(highlight=False, width=wide)).print(made)


def _cut(text: str) -> str:
    return text if len(text) <= _CELL_CHARS else f"{text[:_CELL_CHARS]}…"


def _is_number(rows: list[tuple[Any, ...]], place: int) -> bool:
    """Tells whether a column has numbers only, and at least one."""
    values = [row[place] for row in rows if row[place] is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def json_lines(answer: Answer) -> Iterator[str]:
    """Yields a JSON array of objects, a row a line; a name that is there already gets a number: `a`, `a_2`.

    A blob is its hexadecimal digits; a number that JSON has none for, infinity, is null.
    """
    names = _distinct(answer.columns)
    yield "["
    for number, row in enumerate(answer.rows):
        values = [value.hex() if isinstance(value, bytes) else value for value in row]
        # JSON leaves C1 and what reorders text as it is; escaped, it is the same JSON.
        text = printable(orjson.dumps(dict(zip(names, values, strict=True))).decode())
        yield f"{',' if number else ''}\n{text}"
    yield "\n]\n" if answer.rows else "]\n"


def _distinct(columns: tuple[str, ...]) -> list[str]:
    """Returns the names, each once."""
    found: list[str] = []
    for name in columns:
        number, distinct = 2, name
        while distinct in found or (distinct != name and distinct in columns):
            distinct = f"{name}_{number}"
            number += 1
        found.append(distinct)
    return found


def csv_lines(answer: Answer) -> Iterator[str]:
    """Yields CSV as RFC 4180 has it, a line of names first: NULL is empty, an empty text is two quotes.

    Values are as they are, but for a terminal, which would obey what is in them.
    """
    clean = printable if sys.stdout.isatty() else str
    yield ",".join(_field(clean(name)) for name in answer.columns) + "\r\n"
    for row in answer.rows:
        yield ",".join("" if value is None else _field(clean(_plain(value))) for value in row) + "\r\n"


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _field(text: str) -> str:
    if text and not any(mark in text for mark in ',"\r\n') and text == text.strip():
        return text
    return '"' + text.replace('"', '""') + '"'
