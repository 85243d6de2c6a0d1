"""`hearthnet telemetry sql`: asks telemetry.db in SQL; it can neither change it nor hold up the node."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import orjson

from hearthnet.cli.options import config_option, json_option
from hearthnet.cli.output import printable, table
from hearthnet.config import Config
from hearthnet.observability.store.query.statement import QueryResult, ask, too_slow
from hearthnet.observability.telemetry import DATABASE

_TERMINAL_ROWS: Final = 100  # what a person scrolls through
_MAX_TIMEOUT_S: Final = 60.0  # the writer can do without reusing its WAL for so long
_GRACE_S: Final = 0.5  # for SQLite to end the statement itself
_STDIN_BYTES: Final = 1_000_000
_WHOLE_CHARS: Final = 30  # ids, times and shorter values stay on one line if they can
_PIPE_WIDTH: Final = 1_000_000  # columns: rich cuts nothing then, and pads no further than the values go
_RELATIONS: Final = (
    "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    " ORDER BY type DESC, name"
)


@click.command("sql")
@click.argument("sql", required=False, metavar="[SQL]")
@click.option("--list", "is_list", is_flag=True, help="Show the views and tables, and what their columns mean.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV (RFC 4180), values as they are.")
@click.option("--limit", type=click.IntRange(min=0), help="Rows shown; 0: all. On a terminal 100, else all.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, max=_MAX_TIMEOUT_S, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds that the query may take.",
)
@click.option(
    "--db",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Ask this file: a snapshot, say.",
)
@config_option
@json_option
def sql_command(
    config: Config,
    sql: str | None,
    is_list: bool,
    as_csv: bool,
    limit: int | None,
    timeout_s: float,
    db: Path | None,
    as_json: bool,
) -> None:
    """Ask telemetry.db in SQL: one SELECT, or - for standard input.

    Nothing can be changed, and the node is not held up: all rows are fetched
    at once, within --timeout. Times are UTC. docs/queries.md has twenty
    questions with their SQL. In CSV, NULL is empty and an empty text is "";
    a value that begins with = + - or @ is left so, and a spreadsheet takes it
    for a formula: import such columns as text.

    \b
    Example: hearthnet telemetry sql --list
             hearthnet telemetry sql "SELECT * FROM recent LIMIT 10"
             hearthnet telemetry sql --csv "SELECT * FROM minutes" > m.csv
             hearthnet telemetry sql --json - < query.sql
             hearthnet telemetry sql --db copy.db "SELECT * FROM run_history"
    """
    if (sql is None) is not is_list:
        raise click.UsageError("say what: one of SQL, --list")
    if as_json and as_csv:
        raise click.UsageError("one of --json and --csv")
    assert config.observability.data_dir is not None
    path = db if db is not None else config.observability.data_dir / DATABASE
    is_text = not (as_json or as_csv)
    if limit is None and is_text and not is_list and sys.stdout.isatty():
        limit = _TERMINAL_ROWS
    statement = _RELATIONS if sql is None else _stdin() if sql == "-" else sql
    with _killed_after(timeout_s):
        answer = ask(path, statement, timeout_s, limit or None)
    if not is_text:
        # Not by click.echo, which removes escape sequences from what no terminal reads, and flushes every line.
        sys.stdout.writelines(_json_lines(answer) if as_json else _csv_lines(answer))
    elif is_list:
        _print_relations(answer)
    else:
        print_table(answer)
    if answer.has_more:
        click.echo(f"there are more than these {len(answer.rows):,} rows: --limit shows more", err=True)


def _stdin() -> str:
    return sys.stdin.buffer.read(_STDIN_BYTES).decode(errors="surrogateescape")


@contextmanager
def _killed_after(timeout_s: float) -> Iterator[None]:
    """Ends this process, and so its read transaction, when SQLite overruns `timeout_s`.

    SQLite looks at the clock between two steps; a function, `instr` of two long texts say, is one step and may take
    hours.
    """

    def kill() -> None:
        # Not by click: the other thread may be in the middle of the same stream.
        error = too_slow(timeout_s)
        os.write(2, f"error: {error.message}\nhint: {error.hint}\n".encode())
        os._exit(error.exit_code)

    timer = threading.Timer(timeout_s + _GRACE_S, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print_relations(answer: QueryResult) -> None:
    """Prints each statement as far as its list of columns goes: the comments in it explain them."""
    for _, _, sql in answer.rows:
        head = re.match(r".*?\n\)|.*", sql, re.DOTALL)
        assert head is not None
        for line in head[0].splitlines():
            click.echo(printable(line))
        click.echo()


def print_table(answer: QueryResult) -> None:
    """Prints a table as wide as its values are; on a terminal that is narrower, they go on below."""
    from rich.console import Console
    from rich.markup import escape
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    names = [printable(name) for name in answer.columns]
    texts = [[shown(value) for value in row] for row in answer.rows]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    has_room = sum(min(width, _WHOLE_CHARS) + 1 for width in widths) <= console.width
    made = table(*map(escape, names))
    for place, column in enumerate(made.columns):
        column.no_wrap = has_room and widths[place] <= _WHOLE_CHARS
        column.overflow = "fold"
        kinds = {type(row[place]) for row in answer.rows} - {type(None)}
        column.justify = "right" if kinds and kinds <= {int, float} else "left"
    for row in texts:
        made.add_row(*map(Text, row))
    console.print(made)


def shown(value: Any) -> str:
    """Returns a value as the table has it, control characters spelled out."""
    if value is None:
        return "NULL"
    return f"x'{value.hex()}'" if isinstance(value, bytes) else printable(value)


def _json_lines(answer: QueryResult) -> Iterator[str]:
    """Yields a JSON array of objects, a row a line; a repeated name gets a number: `a`, `a_2`.

    A blob is its hexadecimal digits; infinity, which JSON lacks, is null.
    """
    names: list[str] = []
    for column in answer.columns:
        number, name = 1, column
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    yield "["
    for place, row in enumerate(answer.rows):
        values = [value.hex() if isinstance(value, bytes) else value for value in row]
        # JSON leaves C1 and what reorders text as it is; escaped, it is the same JSON.
        text = printable(orjson.dumps(dict(zip(names, values, strict=True))).decode())
        yield f"{',' if place else ''}\n{text}"
    yield "\n]\n" if answer.rows else "]\n"


def _csv_lines(answer: QueryResult) -> Iterator[str]:
    """Yields CSV as RFC 4180 has it, a line of names first: NULL is empty, an empty text is two quotes.

    Values are as they are, but for a terminal, which would obey what is in them.
    """
    clean = printable if sys.stdout.isatty() else str
    for row in (answer.columns, *answer.rows):
        yield ",".join("" if value is None else _field(clean(_plain(value))) for value in row) + "\r\n"


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _field(text: str) -> str:
    return text if text and not re.search('[,"\r\n]', text) else '"' + text.replace('"', '""') + '"'
