"""Printing: JSON for programs, tables for people, and nothing that a terminal would obey."""

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

# C0, DEL, C1, and what reorders text: recorded strings come from strangers.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_WIDE: Final = 160  # columns where there is no terminal to ask


def printable(text: object) -> str:
    """Returns `text` with every control character spelled out."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def print_json(value: Any) -> None:
    """Prints one JSON document: indented on a terminal, on one line elsewhere."""
    import orjson

    options = orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0)
    # JSON leaves C1 and what reorders text as it is; escaped, it is the same JSON.
    text = orjson.dumps(value, option=options).decode()
    click.echo("\n".join(printable(line) for line in text.split("\n")), nl=False)


def console() -> Console:
    """Returns where people read: as wide as their terminal, in colour if it has any."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Returns an empty table with these columns, a line a row; those in `right` hold numbers."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=True, overflow="ellipsis")
    return made


def hanging(prefix: str, text: str) -> str:
    """Returns `text` behind `prefix`, which is so wide in a terminal that later lines are indented as far."""
    if not sys.stdout.isatty():
        return prefix + text
    import shutil
    import textwrap

    width = max(40, shutil.get_terminal_size().columns) - len(prefix)
    return prefix + ("\n" + " " * len(prefix)).join(textwrap.wrap(text, width))


def local_time(us: int) -> str:
    """Returns UTC microseconds as local time; the day instead of the seconds if it is not today."""
    moment = datetime.fromtimestamp(us / 1e6, tz=UTC).astimezone()
    is_today = moment.date() == datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S}" if is_today else f"{moment:%d %H:%M}"


def result_style(result: str) -> str:
    """Returns the colour of a result: green, yellow for cancelled, red for every failure."""
    return {"ok": "green", "cancelled": "yellow"}.get(result, "red")
