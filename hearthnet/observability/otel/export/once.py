"""Exports chosen rows once, to a file or a backend: what `hearthnet telemetry export` does.

The cursor of the continuous export is neither read nor moved. Rows are read page by page, each by a short statement, so
a store that is being written is not held up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from hearthnet.errors import HearthNetError
from hearthnet.observability.otel.export.delivery import MAX_RECORDS, Delivery
from hearthnet.observability.otel.export.route import Route, Serial
from hearthnet.observability.otel.export.verdict import Verdict
from hearthnet.observability.store.query import unsent

if TYPE_CHECKING:
    from hearthnet.observability.store.reader import Reader

__all__ = ["Exported", "ExportError", "send", "write"]

_TRIES: Final = 5  # a person waits
_LENGTH_BYTES: Final = 4  # before each message of a file, big-endian, as the Collector's file exporter has it

Progress = Callable[[int], None]  # called with the number of records since the last call


class ExportError(HearthNetError):
    """Raised when a backend does not take the records."""


@dataclass(slots=True)
class Exported:
    """What was exported: records by signal, and those that were lost by reason."""

    records: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def add(self, signal: str, count: int, failed: dict[str, int]) -> None:
        """Adds what became of a batch."""
        self.records[signal] = self.records.get(signal, 0) + count
        for reason, lost in failed.items():
            self.failed[reason] = self.failed.get(reason, 0) + lost


def write(
    reader: Reader,
    serials: Sequence[Serial],
    wanted: unsent.Selected,
    out: BinaryIO,
    progress: Progress,
) -> Exported:
    """Writes the chosen rows as a file of OTLP: JSON, a request a line, or protobuf, each with its length before it.

    Raises:
        StoreError: raised when the store cannot be read.
        OSError: raised when the file cannot be written.
    """
    found = Exported()
    for serial in serials:
        line = Delivery(serial.signal, serial.encode, partial(_put, out=out, is_json=serial.is_json))
        for records in _pages(reader, serial, wanted):
            _deliver(line, records, progress)
        found.add(serial.signal, line.counts.sent, line.counts.failed)
    return found


def _put(body: bytes, *, out: BinaryIO, is_json: bool) -> Verdict:
    out.write(body + b"\n" if is_json else len(body).to_bytes(_LENGTH_BYTES, "big") + body)
    return Verdict("accepted")


def _pages(reader: Reader, serial: Serial, wanted: unsent.Selected) -> Iterator[list[Any]]:
    last, after = unsent.last_seq(reader), 0
    while records := serial.read(after, last, MAX_RECORDS, wanted):
        yield records
        after = records[-1].seq


def send(reader: Reader, routes: Sequence[Route], wanted: unsent.Selected, progress: Progress) -> Exported:
    """Sends the chosen rows to a backend; waits for one that is overloaded, five times at the most.

    Raises:
        StoreError: raised when the store cannot be read.
        ExportError: raised when the backend is away, or refuses them.
    """
    found = Exported()
    try:
        for route in routes:
            line = Delivery(route.signal, route.encode, route.sender.send)
            for records in _pages(reader, route, wanted):
                _deliver(line, records, progress)
            found.add(route.signal, line.counts.sent, line.counts.failed)
    finally:
        for route in routes:
            route.sender.close()
    return found


def _deliver(line: Delivery, records: list[Any], progress: Progress) -> None:
    done = tries = 0
    while done < len(records):
        delivered = line.deliver(records[done : done + line.limit])
        progress(delivered)
        done += delivered
        tries = 0 if delivered else tries + 1
        if line.trouble is None:
            continue
        if line.trouble.kind == "misset" or tries >= _TRIES:
            hint = "see the settings of the export in docs/opentelemetry.md" if line.trouble.kind == "misset" else None
            raise ExportError(f"{line.signal} are not taken: {line.trouble.words}", hint=hint)
        time.sleep(max(0.0, line.ready_at - time.monotonic()))
