"""Recovers the records in boxes of ended runs that the database lacks, and closes those runs.

Each box is recovered once, even if the process is killed meanwhile: records are identified by their numbers, and the
transaction that closes the run is the last. Only then is the file deleted. The box of a live process is never touched.
Written here because SQLite recovers committed rows only; the rest is in our boxes alone, and subject to our ring's
rule.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Final

import orjson

from hearthnet.forensics import box as layout
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.record import LogRecord, TraceRecord
from hearthnet.observability.store import rows
from hearthnet.observability.store.merge import last_seq, merge
from hearthnet.observability.store.recovery.box_records import BoxRecords, records_of
from hearthnet.observability.store.rows import LOGS, TRACES

__all__ = [
    "Recovery",
    "close_other_runs",
    "last_seen_us",
    "leftover_boxes",
    "recover_box",
    "recover_boxes",
    "remaining_boxes",
    "restore_committed",
]

log = get_logger(__name__)

NextSeq = Callable[[], int]
KILLED: Final = "killed"  # the process ended with more pending than its box holds
_MAX_INTEGER: Final = 2**63 - 1  # of a column: a box may hold any number
_LAST_TRACES: Final = 100  # they are in the order of their end, except for a few that ended at the same time
WAL_LOST: Final = "wal_lost"  # committed rows are missing: the WAL was removed or damaged


@dataclass(slots=True)
class Recovery:
    """The result of a recovery.

    Attributes:
        runs: ended runs whose box was recovered.
        traces: recovered traces.
        logs: recovered log records.
        interrupted: traces that had not ended.
        dropped: records that are neither in the database nor in a box.
        last_seq: the highest number that was ever given, as far as known; 0 if it was not looked for.
    """

    runs: int = 0
    traces: int = 0
    logs: int = 0
    interrupted: int = 0
    dropped: int = 0
    last_seq: int = 0

    def add(self, other: Recovery) -> None:
        """Adds the counts of another box."""
        self.runs += other.runs
        self.traces += other.traces
        self.logs += other.logs
        self.interrupted += other.interrupted
        self.dropped += other.dropped


def leftover_boxes(directory: Path, own: Path | None = None) -> list[tuple[Path, layout.Box | None]]:
    """Returns the boxes of ended processes, oldest first; None for a file that cannot be parsed as a box.

    Args:
        directory: of the store.
        own: the box of this process, which is skipped.
    """
    found: list[tuple[Path, layout.Box | None]] = []
    for path in layout.boxes_in(directory):
        if path == own:
            continue
        try:
            box = layout.read_box(path)
        except OSError as error:  # unreadable now; the next start tries again
            log.warning("a black box cannot be read", extra={"path": str(path), "error": str(error)})
            continue
        if box is None or not _is_written(path, box):
            found.append((path, box))
    return found


def _is_written(path: Path, box: layout.Box) -> bool:
    """Returns True if a process still writes the box: it holds the box's lock, or pid, boot and start match."""
    if box.ended_us or layout.is_locked(path):
        return box.ended_us == 0
    # A box that this process has closed with records not committed is a leftover, too.
    return box.header.pid != os.getpid() and layout.is_alive(box.header)


def remaining_boxes(directory: Path) -> list[layout.Box]:
    """Returns all readable boxes in `directory`, of live and ended processes."""
    found = []
    for path in layout.boxes_in(directory):
        try:
            box = layout.read_box(path)
        except OSError:  # removed since it was listed, or not readable
            continue
        if box is not None:
            found.append(box)
    return found


def recover_boxes(
    connection: sqlite3.Connection,
    directory: Path,
    own: Path | None = None,
    next_seq: NextSeq | None = None,
) -> Recovery:
    """Recovers and deletes every leftover box in `directory`.

    Args:
        connection: to the store's database.
        directory: of the store.
        own: the box of this process, which is skipped.
        next_seq: returns a number for a record that has none of this database; by default the next after the highest.

    Raises:
        sqlite3.Error: raised when the database cannot be written; the remaining boxes stay as they are.
    """
    total = Recovery()
    for path, box in leftover_boxes(directory, own):
        if box is None:
            log.warning("a black box is too damaged to recover", extra={"path": str(path)})
        else:
            total.add(recover_box(connection, box, next_seq))
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # it is recovered; the next time the database will lack nothing of it
            log.warning("a black box cannot be removed", extra={"path": str(path), "error": str(error)})
    return total


def recover_box(connection: sqlite3.Connection, box: layout.Box, next_seq: NextSeq | None = None) -> Recovery:
    """Inserts the records of one box and closes its run, as far as that was not done before."""
    is_secondary = box.header.role == layout.LIBRARY
    is_closed = _is_closed(connection, box.header.run_id)
    if is_closed and is_secondary:
        return Recovery()
    found = _numbered(records_of(box))
    if is_closed:  # merging twice is harmless; skipping the merge might lose records
        return Recovery(traces=merge(connection, TRACES, found.traces), logs=merge(connection, LOGS, found.logs))
    wal_lost, traces, logs = 0, len(found.traces), len(found.logs)
    if not is_secondary:
        wal_lost = _count_wal_loss(connection, box, found)
        traces = merge(connection, TRACES, found.traces)
        logs = merge(connection, LOGS, found.logs)
    if next_seq is None:
        highest = last_seq(connection)
        if not is_secondary:
            highest = max(highest, box.committed_number, _highest(found))
        next_seq = count(highest + 1).__next__
    _close_run(connection, box, found, wal_lost, next_seq)
    # Renumbered records were added to full rings: apply the rings' rule once more.
    merge(connection, TRACES, [])
    merge(connection, LOGS, [])
    return Recovery(1, traces, logs, len(found.interrupted), found.dropped_traces + found.dropped_logs + wal_lost)


def restore_committed(connection: sqlite3.Connection, box: layout.Box) -> None:
    """Inserts the records of this process's own box that it had committed, where the database lacks them."""
    found = _numbered(
        records_of(
            replace(
                box,
                traces=[frame for frame in box.traces if frame.ordinal <= box.committed_traces],
                logs=[frame for frame in box.logs if frame.ordinal <= box.committed_logs],
                in_flight=[],
            )
        )
    )
    merge(connection, TRACES, found.traces)
    merge(connection, LOGS, found.logs)


def _numbered(found: BoxRecords) -> BoxRecords:
    return replace(
        found,
        traces=[record._replace(seq=record.number) for record in found.traces],
        logs=[record._replace(seq=record.number) for record in found.logs],
    )


def _is_closed(connection: sqlite3.Connection, run_id: str) -> bool:
    row = connection.execute("SELECT ended_us FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return row is not None and row[0] is not None


def _highest(found: BoxRecords) -> int:
    return max((record.seq for records in (found.traces, found.logs) for record in records), default=0)


def _count_wal_loss(connection: sqlite3.Connection, box: layout.Box, found: BoxRecords) -> int:
    """Returns how many committed numbers are missing from the database and older than the box's oldest record."""
    last = last_seq(connection)
    if last >= box.committed_number:
        return 0
    first_kept = min((records[0].seq for records in (found.traces, found.logs) if records), default=last + 1)
    return max(0, first_kept - last - 1)


def _close_run(
    connection: sqlite3.Connection, box: layout.Box, found: BoxRecords, wal_lost: int, next_seq: NextSeq
) -> None:
    """Inserts records without a number, records the gaps, and closes the run, in one transaction."""
    header = box.header
    connection.execute("BEGIN IMMEDIATE")
    try:
        run = (header.run_id, header.node_id, header.version, header.pid, header.boot_id or None, header.started_us)
        connection.execute(rows.INSERT_RUN, run)
        if header.role == layout.LIBRARY:
            _insert_numbered(connection, found, next_seq)
        for record in found.interrupted:
            connection.execute(TRACES.insert, record._replace(seq=next_seq()))
        now = rows.now_us()
        gaps = (
            ("trace", KILLED, found.dropped_traces),
            ("log", KILLED, found.dropped_logs),
            ("trace", WAL_LOST, wal_lost),
        )
        for kind, reason, dropped in gaps:
            if dropped:
                connection.execute(rows.INSERT_GAP, (next_seq(), now, kind, reason, dropped))
        _end_run(connection, header.run_id, header.started_us, box.ended_us)
        connection.execute(rows.SET_VITALS, (last_seen_us(box, found), _vitals_of(box), header.run_id))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def last_seen_us(box: layout.Box, found: BoxRecords) -> int:
    """Returns when a box's run was last known alive, by the wall clock: a sample, a record, or the heartbeat.

    The heartbeat is on the monotonic clock, so it is added to the start of the run, unless a sample has the wall clock
    of nearly the same time: the wall clock may have been set since the start.
    """
    header = box.header
    alive_us = header.started_us + max(0, box.heartbeat_ns - header.started_ns) // 1_000
    moments = [box.vitals[-1].ts_us if box.vitals else alive_us, box.ended_us]
    moments += [record.ts_us for record in found.logs[-1:]]
    moments += [record.started_us + int(record.duration_ms * 1e3) for record in found.traces[-_LAST_TRACES:]]
    return min(max(moments), _MAX_INTEGER)


def _vitals_of(box: layout.Box) -> str | None:
    """Returns the samples as a JSON array, or None if there are none."""
    return orjson.dumps([asdict(vitals) for vitals in box.vitals]).decode() if box.vitals else None


def _insert_numbered(connection: sqlite3.Connection, found: BoxRecords, next_seq: NextSeq) -> None:
    """Inserts the records of another process in the order of its own numbers, renumbered for this database."""
    records: list[TraceRecord | LogRecord] = [*found.traces, *found.logs]
    for record in sorted(records, key=lambda item: item.seq):
        numbered = record._replace(seq=next_seq())
        if isinstance(numbered, TraceRecord):
            connection.execute(TRACES.insert, numbered)
        else:
            connection.execute(LOGS.insert, numbered)


def _end_run(connection: sqlite3.Connection, run_id: str, started_us: int, clean_us: int) -> None:
    """Closes a run: cleanly if it stopped cleanly, else as of the last time that the database shows it alive."""
    last = connection.execute(
        "SELECT max(ifnull((SELECT max(started_us + CAST(duration_ms * 1000 AS INTEGER)) FROM traces"
        " WHERE run_id = :run), 0), ifnull((SELECT max(ts_us) FROM logs WHERE run_id = :run), 0), :started)",
        {"run": run_id, "started": started_us},
    ).fetchone()[0]
    connection.execute(rows.END_RUN, (clean_us, rows.CLEAN, run_id) if clean_us else (last, rows.UNCLEAN, run_id))


def close_other_runs(connection: sqlite3.Connection, but: set[str]) -> None:
    """Closes the runs without an end as unclean: this process holds the lock, so they have ended.

    Args:
        connection: to the store's database.
        but: this run, and those whose box is not recovered yet: the box of a closed run is not recovered in full.
    """
    found = connection.execute("SELECT run_id, started_us FROM runs WHERE ended_us IS NULL").fetchall()
    open_runs = [run for run in found if run[0] not in but]
    if not open_runs:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for other_id, started_us in open_runs:
            _end_run(connection, other_id, started_us, 0)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
