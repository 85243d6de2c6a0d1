"""Recovers the records in boxes of ended runs that the database lacks, and closes those runs.

Any process of the store does it, at its start and once a minute, one at a time: it holds the store's lock. Each box is
recovered once, even if the process is killed meanwhile: a record's identity is its run and number, the database knows
how far each run has come, and the transaction that closes the run is the last. Only then is the file deleted. The box
of a live process is never touched.
Written here because SQLite recovers committed rows only; the rest is in our boxes alone, and subject to our ring's
rule.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson

from hearthnet.files import hint_for
from hearthnet.forensics import box as layout
from hearthnet.forensics.evidence.kernel import KernelSources
from hearthnet.forensics.evidence.last_sign import last_seen_us
from hearthnet.forensics.model import Kernel
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.store import rows
from hearthnet.observability.store.merge import Record, admit, is_closed, known_numbers, merge, transaction
from hearthnet.observability.store.recovery.box_records import BoxRecords, records_of
from hearthnet.observability.store.rows import LOGS, TRACES

__all__ = [
    "Recovery",
    "close_other_runs",
    "count_missing",
    "has_leftovers",
    "is_written",
    "leftover_boxes",
    "missing",
    "recover_box",
    "recover_boxes",
    "restore_committed",
]

log = get_logger(__name__)

KILLED: Final = "killed"  # the process was killed with more pending than its box holds
BUDGET: Final = "budget"  # they gave way in a box that had waited for long, to keep the byte budget
BOX_FULL: Final = "box_full"  # it ended in order, but had more left to commit than its box holds
_MAKING_S: Final = 10.0
_MAX_INTEGER: Final = 2**63 - 1  # of a column: a box may hold any number
WAL_LOST: Final = "wal_lost"  # committed rows are missing: the WAL, or the database, was removed or damaged


@dataclass(slots=True)
class Recovery:
    """The result of a recovery.

    Attributes:
        runs: ended runs whose box was recovered.
        traces: recovered traces.
        logs: recovered log records.
        interrupted: traces that had not ended.
        lost: records that are neither in the database nor in a box, by reason.
        unclean: those of `runs` that did not end in order.
    """

    runs: int = 0
    traces: int = 0
    logs: int = 0
    interrupted: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    unclean: int = 0

    @property
    def dropped(self) -> int:
        """The number of all that are lost."""
        return self.lost.total()

    def add(self, other: Recovery) -> None:
        """Adds the counts of another box."""
        self.runs += other.runs
        self.traces += other.traces
        self.logs += other.logs
        self.interrupted += other.interrupted
        self.lost += other.lost
        self.unclean += other.unclean


def leftover_boxes(directory: Path, own: Path | None = None) -> list[tuple[Path, layout.Box | None]]:
    """Returns the boxes of ended processes, oldest first; None for a file that cannot be parsed as a box.

    Args:
        directory: of the store.
        own: the box of this process, which is skipped.
    """
    found: list[tuple[Path, layout.Box | None]] = []
    own_header = None if own is None else layout.header_of(own)
    for path in layout.boxes_in(directory):
        if path == own or is_written(path):
            continue
        try:
            box = layout.read_box(path)
            if box is None or own_header is None or box.header.run_id != own_header.run_id:  # not a copy of our own
                found.append((path, box))
        except OSError as error:  # unreadable now; the next start tries again
            fields = {"path": str(path), "error": error, "hint": hint_for(error)}
            log.warning("a black box cannot be read", extra=fields)
    return found


def has_leftovers(directory: Path, own: Path | None) -> bool:
    """Returns whether there is a box of an ended process."""
    return any(path != own and not is_written(path) for path in layout.boxes_in(directory))


def is_written(path: Path) -> bool:
    """Returns True if a process still writes a box: it holds the box's lock, or pid, boot and start match."""
    if layout.is_locked(path):
        return True
    header = layout.header_of(path)
    if header is None:
        return _is_young(path)
    # A box that this process has closed with records not committed is a leftover, too.
    return header.pid != os.getpid() and layout.is_alive(header)


def _is_young(path: Path) -> bool:
    """Returns True for a file that another process may be about to make a box of; also if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return not path.is_symlink()
    return stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime < _MAKING_S


def recover_boxes(connection: sqlite3.Connection, directory: Path, own: Path | None = None) -> Recovery:
    """Recovers and deletes every leftover box in `directory`; the caller holds the store's lock.

    Args:
        connection: to the store's database, without implicit transactions.
        directory: of the store.
        own: the box of this process, which is skipped.

    Raises:
        sqlite3.Error: raised when the database cannot be written; the remaining boxes stay as they are.
    """
    total = Recovery()
    for box, paths in _by_run(leftover_boxes(directory, own)):
        if box is None:
            log.warning("a black box is too damaged to recover", extra={"path": str(paths[0])})
        elif box.unreadable:  # a newer version of this program wrote it, and will recover it
            log.warning("a black box is of a newer version", extra={"path": str(paths[0])})
            continue
        else:
            total.add(recover_box(connection, box))
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # it is recovered; the next time the database will lack nothing of it
                log.warning("a black box cannot be removed", extra={"path": str(path), "error": error})
    return total


def _by_run(found: list[tuple[Path, layout.Box | None]]) -> list[tuple[layout.Box | None, list[Path]]]:
    """Returns each run's box with its files: a run that was killed while its box grew has two."""
    boxes: dict[str, tuple[layout.Box | None, list[Path]]] = {}
    for path, box in found:
        key = str(path) if box is None else box.header.run_id
        held, paths = boxes.get(key, (None, []))
        boxes[key] = (box if held is None or box is None else layout.joined(held, box), [*paths, path])
    return list(boxes.values())


def recover_box(connection: sqlite3.Connection, box: layout.Box) -> Recovery:
    """Inserts the records of one box and closes its run, as far as that was not done before.

    Raises:
        sqlite3.Error: raised when the database cannot be written; the next call gets the rest.
    """
    run_id = box.header.run_id
    if is_closed(connection, run_id):
        return Recovery()
    found = records_of(box)
    fresh, lost = missing(connection, box, found)
    if lost:
        _count_lost(connection, run_id, lost)
    merge(connection, fresh, run_id=run_id)
    losses = _losses(box, found)
    _close_run(connection, box, found, losses)
    by_reason = Counter({WAL_LOST: lost} if lost else {})
    for _, reason, count in losses:
        by_reason[reason] += count
    traces = sum(isinstance(record, TraceRecord) for record in fresh)
    return Recovery(
        1,
        traces,
        len(fresh) - traces,
        len(found.interrupted),
        by_reason,
        int(not box.ended_us),
    )


def _losses(box: layout.Box, found: BoxRecords) -> list[tuple[str, str, int]]:
    """Returns kind, reason and number of the records that the run had to drop."""
    too_small = BOX_FULL if box.ended_us else KILLED
    losses = [
        ("trace", too_small, found.dropped_traces),
        ("log", too_small, found.dropped_logs),
        ("trace", BUDGET, found.gave_way_traces),
        ("log", BUDGET, found.gave_way_logs),
    ]
    return [loss for loss in losses if loss[-1]]


def missing(connection: sqlite3.Connection, box: layout.Box, found: BoxRecords) -> tuple[list[Record], int]:
    """Returns the records of a box that the database never had, in the order of their numbers.

    Nothing is taken for committed that is not in the database, or was: what it says of the run decides, not what the
    box says. So a database that has lost its WAL, or is a new one, gets back what the box still has.

    Returns:
        The records, and how many that the box's writer had committed are lost: not in the database, not in the box.
    """
    run_id = box.header.run_id
    row = connection.execute("SELECT value FROM state WHERE name = ?", (run_id,)).fetchone()
    settled = 0 if row is None else row[0]
    known = known_numbers(connection, run_id, settled)
    records: list[Record] = [*found.traces, *found.logs]
    above = {record.number: record for record in records if record.number > settled}
    fresh = [above[number] for number in sorted(above.keys() - known)]
    # What the database never had above what it has; below that, the ring may have evicted it.
    base = max(settled, *known, 0)
    promised = min(box.committed_number, base + TRACES.size + LOGS.size)
    return fresh, max(0, promised - base - sum(base < number <= promised for number in above))


def restore_committed(connection: sqlite3.Connection, box: layout.Box, pending: Collection[int], highest: int) -> int:
    """Inserts the records of this process's own box that the database lacks, but for those that are to be committed.

    Those are `pending`, and all above `highest`.

    Called when the store is opened again: the database may be another one, or may have lost what was committed.

    Returns:
        How many committed ones are lost.
    """
    fresh, lost = missing(connection, box, records_of(replace(box, in_flight=[])))
    merge(connection, [record for record in fresh if record.number <= highest and record.number not in pending])
    if lost:
        with transaction(connection) as state:
            gap = (state.next_seq(), rows.now_us(), "trace", WAL_LOST, lost, box.header.run_id)
            connection.execute(rows.INSERT_GAP, gap)
            state.settle(box.header.run_id, box.committed_number)
        metrics.telemetry_dropped_total.labels(reason=WAL_LOST).inc(lost)
    return lost


def count_missing(connection: sqlite3.Connection, held: Iterable[int], counted: int) -> None:
    """Records how many of the rows that a damaged or lost database held are missing in the one that replaces it.

    Args:
        connection: to the new database.
        held: how many traces, and how many log records, the old one had at least.
        counted: how many of them are recorded as lost already.
    """
    for table, kind, had in zip((TRACES, LOGS), ("trace", "log"), held, strict=True):
        if not had:
            continue
        lost = had - sum(connection.execute(table.count).fetchone())
        lost, counted = lost - counted, max(0, counted - max(0, lost))
        if lost > 0:
            with transaction(connection) as state:
                gap = (state.next_seq(), rows.now_us(), kind, WAL_LOST, lost, None)
                connection.execute(rows.INSERT_GAP, gap)
            metrics.telemetry_dropped_total.labels(reason=WAL_LOST).inc(lost)


def _count_lost(connection: sqlite3.Connection, run_id: str, lost: int) -> None:
    """Records that committed rows are lost: before others are inserted, which leaves fewer of them to be missed.

    Once, even if the process is killed before the run is closed.
    """
    with transaction(connection) as state:
        if not state.settled(rows.LOST + run_id):
            state.settle(rows.LOST + run_id, lost)
            connection.execute(rows.INSERT_GAP, (state.next_seq(), rows.now_us(), "trace", WAL_LOST, lost, run_id))


def _close_run(
    connection: sqlite3.Connection, box: layout.Box, found: BoxRecords, losses: list[tuple[str, str, int]]
) -> None:
    """Inserts the traces that were in flight, records the gaps, and closes the run, in one transaction."""
    header = box.header
    # Now, for its counters go with the control group, and its log with the boot.
    kernel = None if box.ended_us else KernelSources().of_box(box)
    with transaction(connection) as state:
        if is_closed(connection, header.run_id):  # by another process: the lock's file was removed meanwhile
            return
        numbers = (record.number for records in (found.traces, found.logs) for record in records)
        last = max(state.settled(header.run_id), min(box.committed_number, _MAX_INTEGER // 2), *numbers)
        admit(connection, state, [record._replace(number=last + at) for at, record in enumerate(found.interrupted, 1)])
        run = (
            header.run_id, header.node_id, header.version, header.pid, header.boot_id or None, header.started_us,
            header.program or None, rows.role_of(header.node_id),
        )  # fmt: skip
        connection.execute(rows.INSERT_RUN, run)
        for loss in losses:
            connection.execute(rows.INSERT_GAP, (state.next_seq(), rows.now_us(), *loss, header.run_id))
        seen_us = _end_run(connection, header.run_id, box.ended_us, last_seen_us(box))
        connection.execute(rows.SET_VITALS, (seen_us, _vitals_of(box, seen_us, kernel), header.run_id))
        connection.execute(rows.FORGET_RUN, (header.run_id,))


def _vitals_of(box: layout.Box, seen_us: int, kernel: Kernel | None) -> str | None:
    """Returns the samples as a JSON array, the last with the kernel's account of the end; None if there is neither."""
    samples: list[dict[str, Any]] = [asdict(vitals) for vitals in box.vitals]
    if kernel is not None:
        samples = samples or [{"ts_us": seen_us}]
        samples[-1]["kernel"] = kernel._asdict()
    return orjson.dumps(samples).decode() if samples else None


def _end_run(connection: sqlite3.Connection, run_id: str, clean_us: int, seen_us: int) -> int:
    """Closes a run: cleanly if it stopped cleanly, else as of the last time that it is known to have been alive.

    Args:
        connection: to the store's database.
        run_id: of the run.
        clean_us: when it stopped, UTC microseconds; 0 if it did not stop cleanly.
        seen_us: when it was last seen but for its records.

    Returns:
        When it was last seen.
    """
    # Of a trace in flight only the start is by the clock of its time: its age is by the monotonic one.
    last_us = connection.execute(
        "SELECT max(ifnull((SELECT max(started_us"
        " + iif(result = 'interrupted', 0, CAST(duration_ms * 1000 AS INTEGER))) FROM traces WHERE run_id = :run), 0),"
        " ifnull((SELECT max(ts_us) FROM logs WHERE run_id = :run), 0), :seen)",
        {"run": run_id, "seen": seen_us},
    ).fetchone()[0]
    connection.execute(rows.END_RUN, (clean_us, rows.CLEAN, run_id) if clean_us else (last_us, rows.UNCLEAN, run_id))
    return int(last_us)


def close_other_runs(connection: sqlite3.Connection, but: set[str]) -> None:
    """Closes the runs without an end as unclean, unless their process may be alive.

    Args:
        connection: to the store's database.
        but: this run, and those that have a box: alive, or not recovered yet.
    """
    found = connection.execute("SELECT run_id, started_us, pid, boot_id FROM runs WHERE ended_us IS NULL").fetchall()
    dead = [
        (run_id, started_us)
        for run_id, started_us, pid, boot_id in found
        # A process may have no box: the budget had no space for it.
        if run_id not in but and (boot_id != layout.this_boot() or layout.process_start(pid) is None)
    ]
    if dead:
        with transaction(connection):
            for run_id, started_us in dead:
                if is_closed(connection, run_id):  # it ended in order since it was listed
                    continue
                _end_run(connection, run_id, 0, started_us)
                connection.execute(rows.FORGET_RUN, (run_id,))
