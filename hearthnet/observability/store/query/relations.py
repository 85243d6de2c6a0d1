"""The tables and views of a store with the meaning of their columns, and questions to begin with."""

from __future__ import annotations

import re
from typing import Any, Final

from hearthnet.files import packaged
from hearthnet.observability.store.reader import Reader

__all__ = ["questions", "relations"]

_QUESTIONS: Final = "observability/store/query/questions.sql"
_TITLE: Final = re.compile(r"^-- \d+\. (.+)\n", re.MULTILINE)
_COLUMN: Final = re.compile(r" +(\w+)[^-]*(?:-- (.*))?")
_COMMENT: Final = re.compile(r" +-- (.*)")
_RELATIONS: Final = (
    "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'view') AND sql NOT NULL"
    " AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY type DESC, name"
)


def questions() -> list[dict[str, str]]:
    """Returns the cookbook's questions with their SQL."""
    _, *parts = _TITLE.split(packaged(_QUESTIONS))
    return [{"title": title, "sql": sql.strip()} for title, sql in zip(parts[::2], parts[1::2], strict=True)]


def relations(reader: Reader) -> list[dict[str, Any]]:
    """Returns the views and tables, with the comments of the statements that made them.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    found = []
    for kind, name, sql in reader.rows(_RELATIONS):
        comment, meanings = _comments(sql)
        names = [column for (column,) in reader.rows("SELECT name FROM pragma_table_info(?)", (name,))]
        columns = [{"name": column, "comment": meanings.get(column, "")} for column in names]
        found.append({"name": name, "kind": kind, "comment": comment, "columns": columns})
    return found


def _comments(sql: str) -> tuple[str, dict[str, str]]:
    """Returns the comment of a relation, and those of its columns, from the list of columns in its statement."""
    comment, meanings, last = "", dict[str, str](), ""
    for line in sql.splitlines()[1:]:
        if line.startswith((")", ",")):
            break
        if (found := _COMMENT.fullmatch(line)) is not None:
            if last:
                meanings[last] = f"{meanings[last]} {found[1]}"
            else:
                comment = f"{comment} {found[1]}".strip()
        elif (found := _COLUMN.match(line)) is not None:
            last = found[1]
            meanings[last] = found[2] or ""
    return comment, meanings
