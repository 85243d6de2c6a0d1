"""Looks whether telemetry.db is whole, within bounds of time, and while somebody writes it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from hearthnet.database import TELEMETRY, connect_read_only, migrations_dir, reason_of
from hearthnet.errors import StoreError

__all__ = ["Integrity", "examine"]

_WITHIN_S: Final = 0.8  # 10,000 rows of each ring take 10 ms; a store at its ceiling on a card may take longer
_STEPS_BETWEEN_LOOKS: Final = 1_000
_UNFINISHED: Final = "checked in part: there was no time for more"
_MAX_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Integrity:
    """What SQLite finds.

    Attributes:
        said: `ok`, what is wrong, or that there was no time to look at all of it.
        is_damaged: whether the next start moves it aside.
        is_readable: whether queries can be put to it.
        schema: its version; None where even that cannot be read.
        known: the newest version that this program knows.
    """

    said: str
    is_damaged: bool = False
    is_readable: bool = True
    schema: int | None = None
    known: int = 0

    @property
    def is_newer(self) -> bool:
        """Whether a newer program has written it."""
        return self.schema is not None and self.schema > self.known


def examine(path: Path) -> Integrity:
    """Returns the state of the database at `path`. Never raises for what is in it, and changes nothing."""
    try:
        with closing(connect_read_only(path)) as connection:
            return _examine(connection)
    except StoreError as error:
        return Integrity(error.message, is_readable=False)
    except sqlite3.Error as error:
        is_damaged = reason_of(error) == "corrupt"
        return Integrity(str(error), is_damaged=is_damaged, is_readable=False)


def _examine(connection: sqlite3.Connection) -> Integrity:
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    known = max(int(file.name[:4]) for file in (migrations_dir() / TELEMETRY.name).glob("[0-9]*.sql"))
    if identity != TELEMETRY.application_id:
        return Integrity("it is a database of another program", is_damaged=True, is_readable=False)
    said = _quick_check(connection)
    is_damaged = said not in ("ok", _UNFINISHED)
    return Integrity(said, is_damaged, not is_damaged, schema, known)


def _quick_check(connection: sqlite3.Connection) -> str:
    ends_at = monotonic() + _WITHIN_S
    connection.set_progress_handler(lambda: monotonic() > ends_at, _STEPS_BETWEEN_LOOKS)
    try:
        said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return _UNFINISHED
    finally:
        connection.set_progress_handler(None, 0)
    return " ".join(said.split())[:_MAX_CHARS]
