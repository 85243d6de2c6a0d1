"""How the runs of a node ended, read from the store and from boxes that are not recovered yet.

`hearthnet autopsy` reads everything. The doctor has a second or two, often beside a running node, so the queries here
read only what a verdict depends on; the verdict itself is the same. Nothing is changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from hearthnet.database import connect_read_only, store_error
from hearthnet.forensics import box as layout
from hearthnet.forensics.evidence.entries import from_log, from_trace, rows_of_frames
from hearthnet.forensics.evidence.runs import (
    ALL_CLEAR,
    SIGN_LEVELS,
    Boxes,
    as_in_flight,
    in_flight_in,
    is_sign,
    runs_of,
)
from hearthnet.forensics.model import Case, Entry, InFlight, Run
from hearthnet.forensics.tables import COLUMNS
from hearthnet.forensics.whose import last_first, runs_to_judge
from hearthnet.observability.records.results import INTERRUPTED
from hearthnet.observability.store.rows import CLEAN

__all__ = ["died", "end_us", "read_case"]

_MAX_SIGNS: Final = 500  # the newest of a run: the cause of its end is among the last
_SEEN: Final = (
    "SELECT run_id, min(first_us), max(last_us) FROM ("
    " SELECT run_id, min(started_us) AS first_us,"
    " max(started_us + iif(result = 'interrupted', 0, CAST(duration_ms * 1000 AS INTEGER))) AS last_us"
    " FROM traces GROUP BY run_id"
    " UNION ALL SELECT run_id, min(ts_us), max(ts_us) FROM logs GROUP BY run_id) GROUP BY run_id"
)

Row = dict[str, Any]


def read_case(path: Path, alive: Collection[str] = (), run_id: str | None = None) -> Case:
    """Returns the runs of the node whose store is at `path`; the verdict is on the newest ended one, if there is one.

    In a store without any run of a node, all runs count. `in_flight` has the unfinished traces of every run, `signs`
    the warnings and errors of the run under the verdict.

    Args:
        path: of telemetry.db.
        alive: ids of runs that the caller knows to be running; others are known by their boxes.
        run_id: the run under the verdict instead of the newest one.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    boxes, living = _boxes(path.parent)
    living.update(alive)
    try:
        with closing(connect_read_only(path)) as connection:
            connection.execute("BEGIN")  # one moment for all of it
            rows = _rows(connection, "runs", "ORDER BY rowid")
            seen = {run_id: (first_us, last_us) for run_id, first_us, last_us in connection.execute(_SEEN)}
            runs = runs_of(rows, boxes, path.parent, seen, is_damaged=False)
            case = Case(path.parent, runs=last_first(runs_to_judge(runs), living))
            ended = (run for run in case.runs if run.run_id not in living and not run.is_alive)
            case.run = next((run for run in ended if run_id in (None, run.run_id)), None)
            case.in_flight = list(_interrupted(connection))
            case.signs = [] if case.run is None else _signs(connection, case.run)
    except sqlite3.Error as error:
        raise store_error(path, error) from error
    _add_boxes(case, boxes)
    return case


def _add_boxes(case: Case, boxes: Boxes) -> None:
    """Adds the records that only boxes of ended runs have."""
    for run in case.runs:
        if run.run_id not in boxes.by_run or run.end_reason is not None:  # closed: its records are in the database
            continue
        _, box = boxes.by_run[run.run_id]
        case.in_flight += in_flight_in(box)
        if run is case.run:
            case.signs += filter(is_sign, map(from_log, rows_of_frames(box.logs, "logs", run.run_id)))
            case.signs = _each_once(case.signs)[-_MAX_SIGNS:]


def died(run: Run) -> bool:
    """Returns True if an ended run did not end cleanly."""
    return run.end_reason != CLEAN


def end_us(run: Run) -> int:
    """Returns when a run ended in UTC microseconds, or when it was last known alive."""
    return run.ended_us or run.last_seen_us or run.started_us


def _boxes(directory: Path) -> tuple[Boxes, set[str]]:
    """Returns the boxes of ended runs, and the ids of live runs, whose boxes are not read."""
    ended, living = Boxes(), set[str]()
    for path in layout.boxes_in(directory):
        try:
            header = layout.header_of(path)
            if header is None:
                continue
            if layout.is_locked(path) or layout.is_alive(header):
                living.add(header.run_id)
            elif (box := layout.read_box(path)) is not None:
                ended.add(path, box)
        except OSError:  # recovered since it was listed, or not readable
            continue
    return ended, living


def _rows(connection: sqlite3.Connection, table: str, rest: str, values: tuple[Any, ...] = ()) -> list[Row]:
    """Returns rows with the columns that forensics knows; a store not opened since an update lacks some."""
    cursor = connection.execute(f"SELECT * FROM {table} {rest}", values)  # noqa: S608  # constants
    names = [column[0] for column in cursor.description]
    return [{**dict.fromkeys(COLUMNS[table]), **dict(zip(names, row, strict=True))} for row in cursor]


def _interrupted(connection: sqlite3.Connection) -> Iterator[InFlight]:
    for row in _rows(connection, "traces", "WHERE result = ? ORDER BY seq", (INTERRUPTED,)):
        yield as_in_flight(from_trace(row))


def _signs(connection: sqlite3.Connection, run: Run) -> list[Entry]:
    marks = ", ".join("?" * len(SIGN_LEVELS))
    where = f"WHERE run_id = ? AND (level IN ({marks}) OR msg = ?) ORDER BY seq DESC LIMIT ?"
    rows = _rows(connection, "logs", where, (run.run_id, *SIGN_LEVELS, ALL_CLEAR, _MAX_SIGNS))
    return [from_log(row) for row in reversed(rows)]


def _each_once(signs: list[Entry]) -> list[Entry]:
    """Returns each record once, in order; a box also has committed records until they are overwritten."""
    return list({entry.number: entry for entry in signs}.values())
