"""Opens telemetry.db: checked, migrated, with the records of ended runs recovered by the process that keeps house.

A database that is damaged or another program's is moved aside, and a new one created. One that is newer than this
program is left alone. After this the store is consistent and complete; the writer opens its own connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from hearthnet.database import PATIENT_S, TELEMETRY, Schema, misfit, open_database, parts_of, store_error
from hearthnet.errors import UnusableStoreError
from hearthnet.forensics import box as layout
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.blackbox import BlackBox
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.recovery.quarantine import Salvage, keep_within, move_aside, salvage
from hearthnet.observability.store.recovery.recover import (
    Recovery,
    close_other_runs,
    count_missing,
    is_written,
    recover_boxes,
    restore_committed,
)
from hearthnet.observability.store.ring import RECOUNT, trial

__all__ = ["NODE_RESERVE", "Own", "join_store", "keep_house", "log_recovery", "open_store"]

log = get_logger(__name__)

NODE_RESERVE: Final = TELEMETRY.reserve_bytes


class Own(NamedTuple):
    """What this process has recorded when it opens the store again.

    Attributes:
        box: its box.
        pending: numbers of the records that its writer will commit.
        highest: the highest number of them, and of those committed. Threads record meanwhile: what has a higher number
            is to be committed, too, and so may be what they have put into the box and not into the buffer yet.
        held: how many traces and log records the database had, if it is lost or damaged since.
    """

    box: BlackBox
    pending: Collection[int]
    highest: int
    held: tuple[int, int]


def open_store(
    path: Path, budget: Budget, run_id: str, own: Own | None = None, reserve: int = NODE_RESERVE
) -> Recovery:
    """Checks the database at `path`, recovers ended runs, and closes those without a box; the caller keeps house.

    Args:
        path: of the database.
        budget: bounds the quarantine.
        run_id: of this run.
        own: of this process when it opens the store again: what it had committed is restored if the database lacks it.
        reserve: disk space in bytes that a new database takes at once.

    Raises:
        StoreError: raised when the database can be neither used nor moved aside.
        NewerStoreError: raised when it is of a newer version.
        DiskFullError: raised when there is no space for a new one.
    """
    salvaged: Salvage | None = None
    schema = TELEMETRY._replace(reserve_bytes=reserve)
    try:
        # A process that records into it notices damage, and checks it when it opens it again; a short program beside a
        # node need not read all of it.
        is_checked = own is not None or not is_in_use(path.parent)
        connection = _open_whole(path, schema, is_checked=is_checked)
    except UnusableStoreError as error:
        salvaged = salvage(move_aside(path, error.message))
        # Before the second database is created: a quarantine that is too large must not share the disk with it.
        keep_within(path, budget.quarantine)
        connection = open_database(path, schema, PATIENT_S)
    try:
        with closing(connection):
            connection.execute(f"PRAGMA max_page_count = {budget.pages:d}")
            if salvaged is not None:
                salvaged.insert(connection)
            lost = _restore(connection, own)
            recovery = keep_house(connection, path.parent, run_id, None if own is None else own.box.path)
            held = [(0, 0), *(one.held for one in (own, salvaged) if one is not None)]
            count_missing(connection, (max(kind) for kind in zip(*held, strict=True)), lost)
            return recovery
    except sqlite3.Error as error:
        raise store_error(path, error) from error


def join_store(path: Path, own: Own | None, reserve: int) -> None:
    """Opens the database at `path` while another process keeps house: it is not checked, no box is recovered.

    Raises:
        as `open_store`, but that an unusable database is not moved aside.
    """
    try:
        with closing(open_database(path, TELEMETRY._replace(reserve_bytes=reserve), PATIENT_S)) as connection:
            _restore(connection, own)
    except sqlite3.Error as error:
        raise store_error(path, error) from error


def keep_house(connection: sqlite3.Connection, directory: Path, run_id: str, own: Path | None) -> Recovery:
    """Recovers the boxes of ended runs and closes runs that have none; the caller holds the store's lock.

    Raises:
        sqlite3.Error: raised when the database cannot be written, but for what may end, such as a lack of space: then
            the boxes stay.
    """
    recovery = Recovery()
    for statement in RECOUNT:
        connection.execute(statement)
    try:
        recovery = recover_boxes(connection, directory, own)
    except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:  # the boxes stay, the next time tries again
        log.warning("a black box cannot be recovered", extra={"error": error})
    log_recovery(recovery)
    headers = map(layout.header_of, layout.boxes_in(directory))
    close_other_runs(connection, {run_id, *(header.run_id for header in headers if header is not None)})
    return recovery


def is_in_use(directory: Path) -> bool:
    """Returns whether a process records into the store at present."""
    return any(map(is_written, layout.boxes_in(directory)))


def _open_whole(path: Path, schema: Schema, *, is_checked: bool) -> sqlite3.Connection:
    connection = open_database(path, schema, PATIENT_S)
    try:
        if is_checked:
            _check(connection, path)
        _check_schema(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise store_error(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raises UnusableStoreError if SQLite finds damage. 5 ms for 10,000 rows."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise UnusableStoreError(f"{path} is damaged: {' '.join(str(found).split())[:200]}")


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Raises UnusableStoreError if our tables and views are not as this program writes and reads them.

    A fraction of a millisecond, and 20 ms where others have changed or added anything.

    What others have added to them is left: their triggers and indexes, even such that refuse our records.
    """
    words = misfit(parts_of(connection), TELEMETRY, trial)
    if words is not None:
        raise UnusableStoreError(f"{path} does not fit this program: {words}")


def _restore(connection: sqlite3.Connection, own: Own | None) -> int:
    """Returns how many records that this run had committed are lost."""
    if own is not None and (contents := own.box.contents()) is not None:
        return restore_committed(connection, contents, own.pending, own.highest)
    return 0


def log_recovery(recovered: Recovery) -> None:
    """Counts and logs a recovery, unless there was nothing to recover."""
    if not recovered.runs:
        return
    for kind in ("traces", "logs", "interrupted"):
        metrics.telemetry_recovered_total.labels(kind=kind).inc(getattr(recovered, kind))
    for reason, count in recovered.lost.items():
        metrics.telemetry_dropped_total.labels(reason=reason).inc(count)
    fields = {
        "runs": recovered.runs,
        "traces": recovered.traces,
        "logs": recovered.logs,
        "interrupted": recovered.interrupted,
        "lost": recovered.dropped,
    }
    if recovered.unclean:
        log.warning("an earlier run did not stop cleanly; its black box was recovered", extra=fields)
    else:
        log.info("records that earlier runs could not commit were recovered", extra=fields)
