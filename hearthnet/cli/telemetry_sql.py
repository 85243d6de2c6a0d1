"""`hearthnet telemetry sql`: asks telemetry.db in SQL; it can neither change it nor hold up the node."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from hearthnet.cli.options import config_option, json_option
from hearthnet.cli.output import print_json, printable
from hearthnet.cli.telemetry_answer import csv_lines, json_lines, print_table
from hearthnet.config import Config
from hearthnet.errors import EXIT_ERROR, StoreError, UnusableStoreError
from hearthnet.observability.store.catalog import Relation, catalog
from hearthnet.observability.store.query import Answer, Bounds, QueryError, ask
from hearthnet.observability.telemetry import DATABASE

_TERMINAL_ROWS: Final = 100  # what a person scrolls through
_MAX_TIMEOUT_S: Final = 60.0  # so long the writer can do without its WAL being reset
_GRACE_S: Final = 0.5  # for SQLite to end it itself
_HEAP_BYTES: Final = 256_000_000  # of SQLite, sorting included; this process does nothing else
_STDIN_BYTES: Final = 1_000_000
_AROUND: Final = 36  # characters shown before and behind a place in a line


@click.command("sql")
@click.argument("sql", required=False, metavar="[SQL]")
@click.option("--list", "is_list", is_flag=True, help="Show the views and tables, and what their columns mean.")
@click.option("--schema", "is_schema", is_flag=True, help="Show the statements that made them.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV (RFC 4180), values as they are: see below.")
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
    is_schema: bool,
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
    if [sql is not None, is_list, is_schema].count(True) != 1:
        raise click.UsageError("say what: one of SQL, --list, --schema")
    if as_json and as_csv:
        raise click.UsageError("one of --json and --csv")
    assert config.observability.data_dir is not None
    path = db if db is not None else config.observability.data_dir / DATABASE
    with _own_hint(db):
        if sql is None:
            _show_catalog(catalog(path, Bounds(timeout_s)), is_schema, as_json)
            return
        bounds = Bounds(timeout_s, _rows(limit, as_json or as_csv), heap_bytes=_HEAP_BYTES)
        answer = _ask(path, _stdin() if sql == "-" else sql, bounds)
    _show(answer, "json" if as_json else "csv" if as_csv else "table")


def _stdin() -> str:
    return sys.stdin.buffer.read(_STDIN_BYTES).decode(errors="surrogateescape")


@contextmanager
def _own_hint(db: Path | None) -> Iterator[None]:
    """Of a file that the operator named, says something else than of the node's own store."""
    try:
        yield
    except UnusableStoreError as error:
        if db is None:
            raise
        raise StoreError(error.message, hint="name a telemetry.db, or a snapshot of one") from error


def _rows(limit: int | None, is_for_program: bool) -> int | None:
    if limit is None:
        return _TERMINAL_ROWS if sys.stdout.isatty() and not is_for_program else None
    return limit or None


def _ask(path: Path, sql: str, bounds: Bounds) -> Answer:
    try:
        with _ended_after(bounds.timeout_s):
            return ask(path, sql, bounds)
    except QueryError as error:
        if error.place is not None:
            for line in marked(sql, error.place):
                click.echo(line, err=True)
        raise


@contextmanager
def _ended_after(timeout_s: float) -> Iterator[None]:
    """Ends this process, and with it the read transaction, where the time is up and SQLite does not look at the clock.

    It looks between two steps; a function, `instr` of two long texts say, is one step, and may take hours.
    """

    def give_up() -> None:
        # Not by click: the other thread may be in the middle of the same stream.
        os.write(2, f"error: the query takes longer than {timeout_s:g} s\nhint: search in shorter texts\n".encode())
        os._exit(EXIT_ERROR)

    timer = threading.Timer(timeout_s + _GRACE_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def marked(sql: str, place: int) -> tuple[str, str]:
    """Returns the line of a statement that has `place` in it, or what is around it, and a line that points there."""
    begin = sql.rfind("\n", 0, place) + 1
    end = sql.find("\n", place)
    before = sql[begin:place]
    after = sql[place : len(sql) if end < 0 else end]
    if len(before) > _AROUND:
        before = f"…{before[-_AROUND:]}"
    if len(after) > _AROUND:
        after = f"{after[:_AROUND]}…"
    left = printable(before)
    return f"  {left}{printable(after)}", f"  {' ' * len(left)}^"


def _show(answer: Answer, form: str) -> None:
    if form == "table":
        print_table(answer)
    else:
        # Not by click.echo, which takes escape sequences out of what no terminal reads, and flushes every line.
        sys.stdout.writelines(json_lines(answer) if form == "json" else csv_lines(answer))
    if answer.more:
        counted = f"{answer.more:,}" if answer.is_counted else f"more than {answer.more:,}"
        click.echo(f"{counted} more {_noun(answer.more)}: --limit shows more", err=True)
    if sys.stdout.isatty():
        click.echo(f"{len(answer.rows):,} {_noun(len(answer.rows))}, {answer.duration_ms:.1f} ms", err=True)


def _noun(count: int) -> str:
    return "row" if count == 1 else "rows"


def _show_catalog(relations: list[Relation], is_schema: bool, as_json: bool) -> None:
    if as_json:
        print_json(relations)
    elif is_schema:
        for relation in relations:
            click.echo("\n".join(printable(line) for line in relation.sql.splitlines()) + ";\n")
    else:
        for relation in relations:
            _show_relation(relation)


def _show_relation(relation: Relation) -> None:
    click.secho(f"{relation.kind} {printable(relation.name)}", bold=True, nl=False)
    click.echo(f"  {printable(relation.comment)}".rstrip())
    for column in relation.columns:
        click.echo(f"    {printable(column.name):<16} {printable(column.comment)}".rstrip())
    click.echo()
