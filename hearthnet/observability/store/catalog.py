"""What can be asked: the tables and views of a database, and what their own comments say of them.

SQLite keeps the text of a statement with the comments in it. A comment behind a column's name, and in the lines below
it, is that column's; one before the first column is the view's.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hearthnet.database import store_error
from hearthnet.observability.store.query import Bounds, asking

__all__ = ["Column", "Relation", "catalog"]

_LINE: Final = re.compile(r"^\s*(?P<name>\w+)?.*?--\s*(?P<text>.*?)\s*$")
_SELECT: Final = (
    "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    " ORDER BY type DESC, name"
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what its comment says."""

    name: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view.

    Attributes:
        kind: `view` or `table`.
        name: as a query has it.
        comment: what it says of itself.
        columns: in their order.
        sql: the statement that made it.
    """

    kind: str
    name: str
    comment: str
    columns: tuple[Column, ...]
    sql: str


def catalog(path: Path, bounds: Bounds) -> list[Relation]:
    """Returns the views and tables of the database at `path`: views first, each by name.

    Raises:
        StoreError: raised when there is no such database, or it cannot be read.
    """
    with asking(path, bounds) as (connection, _):
        try:
            return [_relation(connection, *row) for row in connection.execute(_SELECT).fetchall()]
        except sqlite3.Error as error:
            raise store_error(path, error) from error


def _relation(connection: sqlite3.Connection, kind: str, name: str, sql: str) -> Relation:
    names = [row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))]
    own, comments = _comments(sql, names)
    columns = tuple(Column(column, " ".join(comments[column])) for column in names)
    return Relation(kind, name, " ".join(own), columns, sql)


def _comments(sql: str, names: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the lines of the statement's own comment, and those of each column's."""
    own: list[str] = []
    found: dict[str, list[str]] = {name: [] for name in names}
    lines = own
    for line in sql.splitlines():
        if re.match(r"\s*\)", line):  # the list of columns ends
            break
        match = _LINE.match(line)
        if match is None:
            name = (line.split() or [""])[0].rstrip(",")
            lines = found.get(name, lines)
            continue
        if match["name"] is not None:
            lines = found.get(match["name"], [])
        lines.append(match["text"])
    return own, found
