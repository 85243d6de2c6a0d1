"""`hearthnet telemetry sql`: queries telemetry.db read-only, without blocking the node."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import orjson

from hearthnet.cli.main import config_option, data_option, json_option, print_plain, printable, table
from hearthnet.constants import DATABASE
from hearthnet.display import counted

if TYPE_CHECKING:
    from rich.console import Console

    from hearthnet.config import Config
    from hearthnet.observability.store.query.statement import QueryResult

_TERMINAL_ROWS: Final = 100  # as many as a person scrolls through
_MAX_TIMEOUT_S: Final = 60.0  # for so long the writer can do without reusing its WAL
_GRACE_S: Final = 0.5  # for SQLite to interrupt the statement itself
_STDIN_BYTES: Final = 1_000_000
_WHOLE_CHARS: Final = 30  # ids, times and shorter values stay on one line if they can
_PIPE_WIDTH: Final = 1_000_000  # columns, so that rich cuts nothing
_RELATIONS: Final = (
    "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    " ORDER BY type DESC, name"
)


@click.command("sql")
@click.argument("sql", required=False, metavar="[SQL]")
@click.option("--list", "is_list", is_flag=True, help="List views and tables with their columns' meaning.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV (RFC 4180) with raw values.")
@click.option("--limit", type=click.IntRange(min=0), help="Rows shown; 0: all. Default: 100 on a terminal, else all.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, max=_MAX_TIMEOUT_S, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds before the query is aborted.",
)
@click.option(
    "--db",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Query this file, a snapshot say.",
)
@data_option
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
    """Query telemetry.db: one SELECT, or - for standard input.

    The query is read-only and does not block the node: all rows are fetched
    at once, within --timeout. Times are UTC. docs/queries.md has twenty
    queries to start from. In CSV, NULL is empty and an empty text is "";
    values that begin with = + - or @ are printed unchanged, and spreadsheets
    take them for formulas: import such columns as text.

    \b
    Example: hearthnet telemetry sql --list
             hearthnet telemetry sql "SELECT * FROM recent LIMIT 10"
             hearthnet telemetry sql --csv "SELECT * FROM minutes" > m.csv
             hearthnet telemetry sql --json - < query.sql
             hearthnet telemetry sql --db copy.db "SELECT * FROM run_history"
    """
    from hearthnet.observability.store.query.statement import ask

    if (sql is None) is not is_list:
        raise click.UsageError("specify either SQL or --list")
    if as_json and as_csv:
        raise click.UsageError("specify only one of --json and --csv")
    assert config.observability.data_dir is not None
    path = db if db is not None else config.observability.data_dir / DATABASE
    is_text = not (as_json or as_csv)
    if limit is None and is_text and not is_list and sys.stdout.isatty():
        limit = _TERMINAL_ROWS
    statement = _RELATIONS if sql is None else _stdin() if sql == "-" else sql
    with _killed_after(timeout_s):
        result = ask(path, statement, timeout_s, limit or None)
    if not is_text:
        # Not click.echo, which strips escape sequences when not on a terminal, and flushes every line.
        sys.stdout.writelines(_json_lines(result) if as_json else _csv_lines(result))
    elif is_list:
        _print_relations(result)
    else:
        print_table(result)
        if not result.rows:
            click.echo("no rows", err=True)
    if result.has_more:
        click.echo(f"only the first {counted(len(result.rows), 'row')} shown: --limit shows more", err=True)


def _stdin() -> str:
    return sys.stdin.buffer.read(_STDIN_BYTES).decode(errors="surrogateescape")


@contextmanager
def _killed_after(timeout_s: float) -> Iterator[None]:
    """Ends this process, and so its read transaction, if SQLite overruns `timeout_s`.

    SQLite checks the time between two steps; a function call, `instr` of two long texts say, is one step and may take
    hours.
    """

    def kill() -> None:
        from hearthnet.observability.store.query.statement import too_slow

        # Not click: the other thread may be writing to the same stream.
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


def _print_relations(result: QueryResult) -> None:
    """Prints the head of each statement with its column list, whose comments explain the columns."""
    for _, _, sql in result.rows:
        head = re.match(r".*?\n\)|.*", sql, re.DOTALL)
        assert head is not None
        for line in head[0].splitlines():
            click.echo(printable(line))
        click.echo()


def print_table(result: QueryResult) -> None:
    """Prints a table as wide as its values; on a narrower terminal they are folded, or each row is a block."""
    from rich.console import Console
    from rich.markup import escape
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    names = [printable(name) for name in result.columns]
    texts = [[shown(value) for value in row] for row in result.rows]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    if sum(min(width, _WHOLE_CHARS) + 1 for width in widths) > console.width:
        _print_blocks(console, names, texts)
        return
    made = table(*map(escape, names))
    for index, column in enumerate(made.columns):
        column.no_wrap = widths[index] <= _WHOLE_CHARS
        column.overflow = "fold"
        kinds = {type(row[index]) for row in result.rows} - {type(None)}
        column.justify = "right" if kinds and kinds <= {int, float} else "left"
    for row in texts:
        made.add_row(*map(Text, row))
    print_plain(console, made)


def _print_blocks(screen: Console, names: list[str], rows: list[list[str]]) -> None:
    """Prints each row as lines of name and value, with an empty line between rows."""
    from rich.text import Text

    for number, row in enumerate(rows):
        if number:
            click.echo()
        made = table("name", "value")
        made.show_header = False
        made.columns[1].no_wrap, made.columns[1].overflow = False, "fold"
        for name, value in zip(names, row, strict=True):
            made.add_row(Text(name, style="bold"), Text(value))
        print_plain(screen, made)


def shown(value: Any) -> str:
    """Returns a value as text for the table, with control characters escaped."""
    if value is None:
        return "NULL"
    return f"x'{value.hex()}'" if isinstance(value, bytes) else printable(value)


def _json_lines(result: QueryResult) -> Iterator[str]:
    """Yields a JSON array of objects, one row per line; a repeated column name gets a number: `a`, `a_2`.

    A blob becomes hexadecimal digits; infinity, which JSON lacks, becomes null.
    """
    names: list[str] = []
    for column in result.columns:
        number, name = 1, column
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    yield "["
    for index, row in enumerate(result.rows):
        values = [value.hex() if isinstance(value, bytes) else value for value in row]
        # JSON need not escape C1 and reordering characters; escaped, it is the same JSON.
        text = printable(orjson.dumps(dict(zip(names, values, strict=True))).decode())
        yield f"{',' if index else ''}\n{text}"
    yield "\n]\n" if result.rows else "]\n"


def _csv_lines(result: QueryResult) -> Iterator[str]:
    """Yields CSV by RFC 4180 with a header line: NULL is empty, an empty text is two quotes.

    Values are unchanged, except that control characters are escaped on a terminal.
    """
    clean = printable if sys.stdout.isatty() else str
    for row in (result.columns, *result.rows):
        yield ",".join("" if value is None else _field(clean(_plain(value))) for value in row) + "\r\n"


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _field(text: str) -> str:
    return text if text and not re.search('[,"\r\n]', text) else '"' + text.replace('"', '""') + '"'
