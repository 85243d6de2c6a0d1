"""Opens telemetry.db for its one writer: whole, of the newest schema, with what dead runs left behind taken in.

A database that is damaged, not ours, or newer is moved aside and a new one begun. After this the store is consistent
and complete; the writer opens its own connection.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hearthnet.database import TELEMETRY, open_database, store_error
from hearthnet.errors import UnusableStoreError
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.merge import last_seq
from hearthnet.observability.store.recovery.quarantine import Salvage, keep_within, move_aside, salvage
from hearthnet.observability.store.recovery.recover import Recovered, boxes_left, close_other_runs, recover, refill

__all__ = ["Opening", "open_store", "tell"]

log = get_logger(__name__)

_TABLES: Final = frozenset({"traces", "logs", "runs", "gaps"})
_VIEWS: Final = frozenset({"recent", "spans", "errors", "capability_stats", "slow", "timeline"})
# Numbers that a dead run may have given and lost; what its box could not be taken in for must not be given again.
_UNKNOWN_NUMBERS: Final = 100_000


@dataclass(slots=True)
class Opening:
    """What opening found.

    Attributes:
        last_seq: the highest number that was ever given, as far as there is evidence of it.
        recovered: what was taken in from black boxes.
        moved_to: where a database that could not be used was moved, or None.
    """

    last_seq: int = 0
    recovered: Recovered = field(default_factory=Recovered)
    moved_to: Path | None = None


def open_store(path: Path, budget: Budget, run_id: str, own: BlackBox | None = None) -> Opening:
    """Prepares the database at `path`; the caller holds the store's lock.

    Args:
        path: of the database.
        budget: bounds what is kept in quarantine.
        run_id: of this run.
        own: the box of this process when the store is opened once more in a run: what it has of the records that were
            committed is put into a database that lost them.

    Raises:
        StoreError: raised when it can be neither used nor moved aside.
        DiskFullError: raised when there is no space for a new one.
    """
    opening = Opening()
    saved: Salvage | None = None
    try:
        connection = _open_whole(path)
    except UnusableStoreError as error:
        opening.moved_to = move_aside(path, error.message)
        saved = salvage(opening.moved_to)
        # Before there is a second database: what is too large to keep would be so beside it, too.
        keep_within(path, budget.quarantine)
        connection = open_database(path, TELEMETRY)
    try:
        with closing(connection):
            connection.execute(f"PRAGMA max_page_count = {budget.pages:d}")
            if saved is not None:
                saved.put(connection)
            _fill(connection, path, opening, own)
            left = boxes_left(path.parent)
            # A run whose box is left may have given numbers that are in nobody's sight but its box's.
            opening.last_seq = max(last_seq(connection), *(box.committed_seq + _UNKNOWN_NUMBERS for box in left), 0)
            close_other_runs(connection, {run_id, *(box.header.run_id for box in left)})
    except sqlite3.Error as error:
        raise store_error(path, error) from error
    return opening


def _open_whole(path: Path) -> sqlite3.Connection:
    if path.is_dir():
        raise UnusableStoreError(f"{path} is a folder")
    connection = open_database(path, TELEMETRY)
    try:
        _check(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise store_error(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raises UnusableStoreError where SQLite finds damage, or something of ours is missing. 5 ms for 10,000 rows."""
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise UnusableStoreError(f"{path} is damaged: {' '.join(str(found).split())[:200]}")
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    missing = (_TABLES | _VIEWS) - names
    if missing:
        raise UnusableStoreError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")


def _fill(connection: sqlite3.Connection, path: Path, opening: Opening, own: BlackBox | None) -> None:
    own_path = None if own is None else own.path
    try:
        if own is not None and (contents := own.contents()) is not None:
            refill(connection, contents)
        opening.recovered = recover(connection, path.parent, own_path)
    except sqlite3.OperationalError as error:  # no space for it now: the boxes stay, the next start tries again
        log.warning("a black box cannot be taken in", extra={"error": str(error)})
    tell(opening.recovered)


def tell(recovered: Recovered) -> None:
    """Counts and logs what was taken in."""
    if not recovered.runs:
        return
    for kind in ("traces", "logs", "interrupted"):
        metrics.telemetry_recovered_total.labels(kind=kind).inc(getattr(recovered, kind))
    if recovered.lost:
        metrics.telemetry_dropped_total.labels(reason="killed").inc(recovered.lost)
    log.warning(
        "an earlier run did not stop cleanly; its black box was taken in",
        extra={
            "runs": recovered.runs,
            "traces": recovered.traces,
            "logs": recovered.logs,
            "interrupted": recovered.interrupted,
            "lost": recovered.lost,
        },
    )
