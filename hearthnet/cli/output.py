"""Printing: JSON for programs, tables for people, control characters escaped."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["console", "hanging", "local_time", "print_json", "printable", "result_style", "table"]

# C0, DEL, C1, and characters that reorder text: recorded strings are untrusted.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_WIDE: Final = 160  # columns without a terminal


def printable(text: object) -> str:
    """Returns `text` with all control characters escaped."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def print_json(value: Any) -> None:
    """Prints one JSON document, indented only on a terminal."""
    import orjson

    options = orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0)
    # JSON need not escape C1 and reordering characters; escaped, it is the same JSON.
    text = orjson.dumps(value, option=options).decode()
    click.echo("\n".join(printable(line) for line in text.split("\n")), nl=False)


def console() -> Console:
    """Returns a console as wide as the terminal, in colour if the terminal has any."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Returns an empty table with these columns and one line per row; those in `right` are right-aligned."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=True, overflow="ellipsis")
    return made


def hanging(prefix: str, text: str) -> str:
    """Returns `prefix` and `text`; in a terminal, `text` is wrapped with a hanging indent of the prefix's width."""
    if not sys.stdout.isatty():
        return prefix + text
    import shutil
    import textwrap

    width = max(40, shutil.get_terminal_size().columns) - len(prefix)
    return prefix + ("\n" + " " * len(prefix)).join(textwrap.wrap(text, width))


def local_time(us: int) -> str:
    """Returns UTC microseconds as local time, with the day instead of the seconds unless it is today."""
    moment = datetime.fromtimestamp(us / 1e6, tz=UTC).astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S}" if is_today else f"{moment:%d %H:%M}"


def result_style(result: str) -> str:
    """Returns the colour of a result: green for ok, yellow for cancelled, red for failures."""
    return {"ok": "green", "cancelled": "yellow"}.get(result, "red")
