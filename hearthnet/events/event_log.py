"""The event log: signed events in Lamport order, in SQLite.

A local append ticks the clock, signs and inserts in one transaction, so a crash never leaves a tick without its event.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from hearthnet.database import EVENTS, connect_read_only, open_database, store_error
from hearthnet.identity.community import utc_now
from hearthnet.identity.keys import KeyPair, canonical_json, verify

__all__ = ["EVENTS_FILE", "Event", "EventLog"]

EVENTS_FILE: Final = "events.sqlite"
SCHEMA_VERSION: Final = 1
_COLUMNS: Final = (
    "event_id, community_id, schema_version, lamport, wall_clock, author, event_type, data, signature, received_at"
)


@dataclass(frozen=True, slots=True)
class Event:
    """An event. `wall_clock` and `received_at` are RFC 3339 UTC; `signature` covers all fields but the last two."""

    event_id: str
    community_id: str
    schema_version: int
    lamport: int
    wall_clock: str
    author: str
    event_type: str
    data: dict[str, Any]
    signature: str = ""
    received_at: str = ""

    def payload(self) -> dict[str, Any]:
        """Returns the fields that the author signs."""
        return {name: value for name, value in asdict(self).items() if name not in ("signature", "received_at")}

    def is_valid(self) -> bool:
        """Returns True if the author's signature matches the event."""
        return verify(self.payload(), self.signature, self.author)


class EventLog:
    """The log of one community in one file. Use it from one thread at a time; close it, or use `with`.

    Args:
        path: of the file, which is created if it is missing.
        is_read_only: whether to create and change nothing, so that a log on a read-only disk can be read.

    Raises:
        StoreError: raised on opening when the file cannot be used.
    """

    def __init__(self, path: Path, *, is_read_only: bool = False) -> None:
        self._path = path
        self._connection = connect_read_only(path) if is_read_only else open_database(path, EVENTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def append(self, community_id: str, event_type: str, data: dict[str, Any], author: KeyPair) -> Event:
        """Ticks the clock, then signs, stores and returns a new event of this node.

        Raises:
            StoreError, DiskFullError: raised when it cannot be written; then nothing is stored.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                event = self._append(community_id, event_type, data, author)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error
        return event

    def _append(self, community_id: str, event_type: str, data: dict[str, Any], author: KeyPair) -> Event:
        from ulid import ULID  # late: it imports pydantic, which `hearthnet status` does not need

        lamport = self._tick(community_id)
        now = utc_now()
        unsigned = Event(str(ULID()), community_id, SCHEMA_VERSION, lamport, now, author.node_id, event_type, data)
        signature = author.sign(unsigned.payload())
        self._connection.execute(
            f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # constant
            (
                unsigned.event_id, community_id, SCHEMA_VERSION, lamport, now, author.node_id, event_type,
                canonical_json(data).decode(), signature, now,
            ),
        )  # fmt: skip
        return self._event(unsigned.event_id)

    def _tick(self, community_id: str) -> int:
        row = self._connection.execute(
            "INSERT INTO clock (community_id, lamport) VALUES (?, 1)"
            " ON CONFLICT (community_id) DO UPDATE SET lamport = lamport + 1 RETURNING lamport",
            (community_id,),
        ).fetchone()
        return int(row[0])

    def _event(self, event_id: str) -> Event:
        row = self._connection.execute(
            f"SELECT {_COLUMNS} FROM events WHERE event_id = ?",  # noqa: S608  # constant
            (event_id,),
        ).fetchone()
        return _from_row(row)

    def events(self, community_id: str) -> list[Event]:
        """Returns all events of a community in causal order."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM events WHERE community_id = ? ORDER BY lamport, event_id",  # noqa: S608
            (community_id,),
        )
        return [_from_row(row) for row in rows.fetchall()]

    def size(self, community_id: str) -> int:
        """Returns the number of events.

        Raises:
            StoreError: raised when the log cannot be read.
        """
        return self._number("SELECT count(*) FROM events WHERE community_id = ?", community_id)

    def head(self, community_id: str) -> int:
        """Returns the highest Lamport time; 0 before the first event. Raises as `size` does."""
        return self._number("SELECT ifnull(max(lamport), 0) FROM events WHERE community_id = ?", community_id)

    def _number(self, sql: str, community_id: str) -> int:
        try:
            return int(self._connection.execute(sql, (community_id,)).fetchone()[0])
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error

    def check_writable(self) -> None:
        """Ticks the clock and rolls back.

        Raises:
            StoreError: raised when the log cannot be written.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._tick("check")
            finally:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error


def _from_row(row: tuple[Any, ...]) -> Event:
    event_id, community_id, schema_version, lamport, wall_clock, author, event_type, data, signature, received_at = row
    return Event(
        event_id, community_id, schema_version, lamport, wall_clock, author, event_type, json.loads(data), signature,
        received_at,
    )  # fmt: skip
