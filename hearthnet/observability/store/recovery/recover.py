"""Takes into the database what the black boxes of dead runs hold and it lacks, and closes those runs.

Each box once, whenever this is killed: a record is known by its number, and the transaction that closes the run is the
last. Only then the file goes. The box of a process that lives is never touched.
Ours because SQLite recovers what was committed; what was not is in our box alone, and has its place by our ring's rule.
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
from hearthnet.observability.store.recovery.box_records import Evidence, evidence_of
from hearthnet.observability.store.rows import LOGS, TRACES

__all__ = ["Recovered", "boxes_left", "close_other_runs", "dead_boxes", "last_seen_us", "recover", "refill", "take_in"]

log = get_logger(__name__)

NextSeq = Callable[[], int]
KILLED: Final = "killed"  # the process ended while more was waiting than its box holds
_MAX_INTEGER: Final = 2**63 - 1  # of a column: a box may say anything
_LAST_TRACES: Final = 100  # they are in the order of their end, but for a few that ended at the same time
WAL_LOST: Final = "wal_lost"  # the database has lost what was committed: its WAL was removed or damaged


@dataclass(slots=True)
class Recovered:
    """What was taken in, over all boxes."""

    runs: int = 0
    traces: int = 0
    logs: int = 0
    interrupted: int = 0
    lost: int = 0

    def add(self, other: Recovered) -> None:
        """Adds what another box gave."""
        self.runs += other.runs
        self.traces += other.traces
        self.logs += other.logs
        self.interrupted += other.interrupted
        self.lost += other.lost


def dead_boxes(directory: Path, own: Path | None = None) -> list[tuple[Path, layout.Box | None]]:
    """Returns the boxes of processes that have ended, oldest first; None for a file that is no box any more.

    Args:
        directory: of the store.
        own: the box of this process, which is left alone.
    """
    found: list[tuple[Path, layout.Box | None]] = []
    for path in layout.boxes_in(directory):
        if path == own:
            continue
        try:
            box = layout.read_box(path)
        except OSError as error:  # unreadable now; it stays for the next start
            log.warning("a black box cannot be read", extra={"path": str(path), "error": str(error)})
            continue
        if box is None or not _is_written(path, box):
            found.append((path, box))
    return found


def _is_written(path: Path, box: layout.Box) -> bool:
    """Tells whether a process still writes a box: it holds the box's lock, or pid, boot and start agree."""
    if box.ended_us or layout.is_locked(path):
        return box.ended_us == 0
    # One that this process has closed without having committed all is nobody's any more.
    return box.header.pid != os.getpid() and layout.is_alive(box.header)


def boxes_left(directory: Path) -> list[layout.Box]:
    """Returns the boxes in `directory` that can be read, of the living and of the dead."""
    found = []
    for path in layout.boxes_in(directory):
        try:
            box = layout.read_box(path)
        except OSError:  # removed since it was listed, or not ours to read
            continue
        if box is not None:
            found.append(box)
    return found


def recover(
    connection: sqlite3.Connection,
    directory: Path,
    own: Path | None = None,
    next_seq: NextSeq | None = None,
) -> Recovered:
    """Takes in every dead box in `directory` and removes it.

    Args:
        connection: to the store's database.
        directory: of the store.
        own: the box of this process, which is left alone.
        next_seq: gives numbers to what has none of this database; None: they go on from the highest there is.

    Raises:
        sqlite3.Error: raised when the database cannot be written; the boxes that are left stay as they are.
    """
    total = Recovered()
    for path, box in dead_boxes(directory, own):
        if box is None:
            log.warning("a black box is damaged beyond reading", extra={"path": str(path)})
        else:
            total.add(take_in(connection, box, next_seq))
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # taken in all the same: next time nothing of it is missing
            log.warning("a black box cannot be removed", extra={"path": str(path), "error": str(error)})
    return total


def take_in(connection: sqlite3.Connection, box: layout.Box, next_seq: NextSeq | None = None) -> Recovered:
    """Puts the records of one box into the database and closes its run, as far as that was not done before."""
    is_secondary = box.header.role == layout.SECONDARY
    is_closed = _is_closed(connection, box.header.run_id)
    if is_closed and is_secondary:
        return Recovered()
    evidence = evidence_of(box)
    if is_closed:  # what it has is known by its numbers: to look once more costs nothing, not to look may
        return Recovered(traces=merge(connection, TRACES, evidence.traces), logs=merge(connection, LOGS, evidence.logs))
    wal_lost, traces, logs = 0, len(evidence.traces), len(evidence.logs)
    if not is_secondary:
        wal_lost = _count_wal_loss(connection, box, evidence)
        traces = merge(connection, TRACES, evidence.traces)
        logs = merge(connection, LOGS, evidence.logs)
    if next_seq is None:
        highest = last_seq(connection)
        next_seq = count(
            (highest if is_secondary else max(highest, box.committed_seq, _highest(evidence))) + 1
        ).__next__
    _close_run(connection, box, evidence, wal_lost, next_seq)
    # What was numbered anew came on top of full rings: their rule, applied once more.
    merge(connection, TRACES, [])
    merge(connection, LOGS, [])
    return Recovered(1, traces, logs, len(evidence.interrupted), evidence.lost_traces + evidence.lost_logs + wal_lost)


def refill(connection: sqlite3.Connection, box: layout.Box) -> None:
    """Puts what this process had committed, as far as its own box has it, into a database that lacks it."""
    evidence = evidence_of(
        replace(
            box,
            traces=[frame for frame in box.traces if frame[0] <= box.committed_traces],
            logs=[frame for frame in box.logs if frame[0] <= box.committed_logs],
            in_flight=[],
        )
    )
    merge(connection, TRACES, evidence.traces)
    merge(connection, LOGS, evidence.logs)


def _is_closed(connection: sqlite3.Connection, run_id: str) -> bool:
    row = connection.execute("SELECT ended_us FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return row is not None and row[0] is not None


def _highest(evidence: Evidence) -> int:
    return max((record.seq for records in (evidence.traces, evidence.logs) for record in records), default=0)


def _count_wal_loss(connection: sqlite3.Connection, box: layout.Box, evidence: Evidence) -> int:
    """Returns how many numbers were committed once, are not in the database, and are older than the box's oldest."""
    last = last_seq(connection)
    if last >= box.committed_seq:
        return 0
    first_kept = min((records[0].seq for records in (evidence.traces, evidence.logs) if records), default=last + 1)
    return max(0, first_kept - last - 1)


def _close_run(
    connection: sqlite3.Connection, box: layout.Box, evidence: Evidence, wal_lost: int, next_seq: NextSeq
) -> None:
    """Inserts what has no number yet, notes what was lost, and closes the run: one transaction."""
    header = box.header
    connection.execute("BEGIN IMMEDIATE")
    try:
        run = (header.run_id, header.node_id, header.version, header.pid, header.boot_id or None, header.started_us)
        connection.execute(rows.INSERT_RUN, run)
        if header.role == layout.SECONDARY:
            _insert_numbered(connection, evidence, next_seq)
        for record in evidence.interrupted:
            connection.execute(TRACES.insert, record._replace(seq=next_seq()))
        now = rows.now_us()
        losses = (
            ("trace", KILLED, evidence.lost_traces),
            ("log", KILLED, evidence.lost_logs),
            ("trace", WAL_LOST, wal_lost),
        )
        for kind, reason, lost in losses:
            if lost:
                connection.execute(rows.INSERT_GAP, (next_seq(), now, kind, reason, lost))
        _end_run(connection, header.run_id, header.started_us, box.ended_us)
        connection.execute(rows.SET_VITALS, (last_seen_us(box, evidence), _vitals_of(box), header.run_id))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def last_seen_us(box: layout.Box, evidence: Evidence) -> int:
    """Returns the last sign of life that a box tells of, by the wall clock: a sample, a record, or the heartbeat.

    The heartbeat is of the monotonic clock, so it counts from the start of the run, unless a sample says what the wall
    clock showed at nearly the same time: that one may have been set meanwhile.
    """
    header = box.header
    alive_us = header.started_us + max(0, box.heartbeat_ns - header.started_ns) // 1_000
    moments = [box.vitals[-1].ts_us if box.vitals else alive_us, box.ended_us]
    moments += [record.ts_us for record in evidence.logs[-1:]]
    moments += [record.started_us + int(record.duration_ms * 1e3) for record in evidence.traces[-_LAST_TRACES:]]
    return min(max(moments), _MAX_INTEGER)


def _vitals_of(box: layout.Box) -> str | None:
    """Returns the samples as a JSON array, None for a run that took none."""
    return orjson.dumps([asdict(vitals) for vitals in box.vitals]).decode() if box.vitals else None


def _insert_numbered(connection: sqlite3.Connection, evidence: Evidence, next_seq: NextSeq) -> None:
    """Inserts the records of another process, in the order of its own numbers, under numbers of this database."""
    records: list[TraceRecord | LogRecord] = [*evidence.traces, *evidence.logs]
    for record in sorted(records, key=lambda item: item.seq):
        numbered = record._replace(seq=next_seq())
        if isinstance(numbered, TraceRecord):
            connection.execute(TRACES.insert, numbered)
        else:
            connection.execute(LOGS.insert, numbered)


def _end_run(connection: sqlite3.Connection, run_id: str, started_us: int, clean_us: int) -> None:
    """Closes a run: cleanly where it says so itself, else at its last sign of life in the database."""
    last = connection.execute(
        "SELECT max(ifnull((SELECT max(started_us + CAST(duration_ms * 1000 AS INTEGER)) FROM traces"
        " WHERE run_id = :run), 0), ifnull((SELECT max(ts_us) FROM logs WHERE run_id = :run), 0), :started)",
        {"run": run_id, "started": started_us},
    ).fetchone()[0]
    connection.execute(rows.END_RUN, (clean_us, rows.CLEAN, run_id) if clean_us else (last, rows.UNCLEAN, run_id))


def close_other_runs(connection: sqlite3.Connection, but: set[str]) -> None:
    """Closes, as unclean, the runs that have no end: the lock is ours, so none of them lives.

    Args:
        connection: to the store's database.
        but: this run, and those whose box could not be taken in yet: a closed run's box is not looked into.
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
