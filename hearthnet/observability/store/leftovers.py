"""The black boxes of dead runs, when the database that they belong to is replaced by one rebuilt from the logs.

Their numbers are the old database's and would clash with the new one's, so their records are numbered anew. What a box
has whole (a trace with its spans) is not rebuilt from its line as well.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

from hearthnet.forensics import box as layout
from hearthnet.observability.record import LogRecord, TraceRecord
from hearthnet.observability.store.evidence import evidence_of
from hearthnet.observability.store.recovery import dead_boxes, take_in

__all__ = ["Leftovers"]


class Leftovers:
    """The boxes of dead runs in a store's folder; the caller holds the store's lock."""

    def __init__(self, directory: Path) -> None:
        found = dead_boxes(directory)
        self._paths = [path for path, _ in found]
        self._boxes = [box for _, box in found if box is not None]
        self._traces: set[tuple[str, str]] = set()
        self._logs: set[tuple[int, str, str]] = set()
        for box in self._boxes:
            evidence = evidence_of(box)
            self._traces |= {(record.trace_id, record.capability) for record in evidence.traces}
            self._logs |= {_identity(record) for record in evidence.logs}

    def knows(self, record: TraceRecord | LogRecord) -> bool:
        """Tells whether a box has the record that a line tells of."""
        if isinstance(record, TraceRecord):
            return (record.trace_id, record.capability) in self._traces
        return _identity(record) in self._logs

    def take_in(self, connection: sqlite3.Connection) -> None:
        """Puts all that the boxes hold behind the rows that are there."""
        for box in self._boxes:
            # As those of another database, which by now they are.
            take_in(connection, replace(box, header=replace(box.header, role=layout.SECONDARY)))

    def remove(self) -> None:
        """Removes the boxes: all of it is in the database."""
        for path in self._paths:
            path.unlink(missing_ok=True)


def _identity(record: LogRecord) -> tuple[int, str, str]:
    # A line's time has milliseconds.
    return record.ts_us // 1_000, record.logger, record.msg
