"""Says of a statement that SQLite refused where it is wrong, and what was probably meant.

SQLite tells the word that it stumbled over, not its place. A word of a syntax error is sought by compiling ever longer
beginnings of the statement: the first that fails with the same words ends at the place.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
from dataclasses import dataclass
from typing import Final

from hearthnet.database import TELEMETRY, migrations_dir

__all__ = ["Trouble", "trouble"]

_SYNTAX: Final = re.compile(r'near "(.*)": syntax error', re.DOTALL)
_UNKNOWN: Final = re.compile(r"(?:no such|ambiguous) (table|column|column name|function): (.+)", re.DOTALL)
_TOKEN: Final = re.compile(r'unrecognized token: "(.*)"', re.DOTALL)
_NOT_CODE: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
_MOST_TRIES: Final = 100  # of beginnings: whoever writes a comma a hundred times gets no mark


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is known of a mistake.

    Attributes:
        message: what is wrong, mostly in SQLite's words.
        place: the character of the statement where it is; None: not known.
        hint: what to do about it; None: not known.
    """

    message: str
    place: int | None = None
    hint: str | None = None


def trouble(connection: sqlite3.Connection, sql: str, message: str) -> Trouble:
    """Returns what can be said of `message`, which is SQLite's answer to `sql`. Never raises for what is in them."""
    if (match := _SYNTAX.fullmatch(message)) is not None:
        return Trouble(message, _syntax_place(connection, sql, match[1], message))
    if (match := _UNKNOWN.fullmatch(message)) is not None:
        kind, name = match[1].partition(" ")[0], match[2]
        return Trouble(message, _name_place(sql, name), _meant(connection, sql, kind, name))
    if (match := _TOKEN.fullmatch(message)) is not None:
        place = sql.find(match[1])
        # In other words than SQLite's: the word may be the whole rest of the query.
        told = "here is no word of SQL, or a text without its end"
        return Trouble(told, None if place < 0 else place, "a text stands in single quotes: 'ok'")
    return Trouble(message, len(sql.rstrip()) if message == "incomplete input" else None)


def _syntax_place(connection: sqlite3.Connection, sql: str, word: str, message: str) -> int | None:
    place = -1
    for _ in range(_MOST_TRIES):
        place = sql.find(word, place + 1)
        if place < 0:
            return None
        if _refusal(connection, sql[: place + len(word)]) == message:
            return place
    return None


def _refusal(connection: sqlite3.Connection, beginning: str) -> str | None:
    """Returns what SQLite says of the beginning of a statement, which is compiled and not run."""
    explained = beginning if beginning.lstrip()[:7].lower() == "explain" else f"EXPLAIN {beginning}"
    try:
        connection.execute(explained).close()
    except sqlite3.Error as error:
        return str(error)
    return None


def _name_place(sql: str, name: str) -> int | None:
    """Returns where a name stands first, texts and comments left out."""
    code = _NOT_CODE.sub(lambda match: " " * len(match[0]), sql)
    match = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", code, re.IGNORECASE)
    return None if match is None else match.start()


def _meant(connection: sqlite3.Connection, sql: str, kind: str, name: str) -> str | None:
    if kind == "table" and _is_older(connection):
        return "this store is of an earlier version of hearthnet, and may lack it: start the node once"
    if kind == "function":
        known = {row[0] for row in connection.execute("SELECT name FROM pragma_function_list")}
    elif kind == "table":
        known = set(_relations(connection))
    else:
        known = _columns(connection, sql)
    close = difflib.get_close_matches(name.rpartition(".")[2].lower(), sorted(known), n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return None if kind == "function" else "hearthnet telemetry sql --list shows what there is"


def _is_older(connection: sqlite3.Connection) -> bool:
    newest = max(int(file.name[:4]) for file in (migrations_dir() / TELEMETRY.name).glob("[0-9]*.sql"))
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    return bool(identity == TELEMETRY.application_id) and bool(
        connection.execute("PRAGMA user_version").fetchone()[0] < newest
    )


def _relations(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
    return [row[0] for row in found]


def _columns(connection: sqlite3.Connection, sql: str) -> set[str]:
    """Returns the columns of the tables and views that a statement names."""
    words = {word.lower() for word in re.findall(r"\w+", sql)}
    return {
        row[0]
        for name in _relations(connection)
        if name.lower() in words
        for row in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))
    }
