"""What the page's stream follows: which database it is, how far it has come, and the records since.

`seq` rises over all tables and runs, in the order of commits, so whatever is new has a higher one than all before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hearthnet.observability.store.query.shapes import LOG, SUMMARY, log_of, summary_of
from hearthnet.observability.store.reader import Reader

__all__ = ["News", "Place", "news_since", "place_of"]

_EPOCH_CHARS: Final = 12
_STATE: Final = "SELECT (SELECT value FROM state WHERE name = 'seq'), (SELECT value FROM state WHERE name = 'epoch')"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a store.

    Attributes:
        epoch: which database; another one after it was made anew, rebuilt or replaced by a copy.
        seq: the last number given in it.
    """

    epoch: str
    seq: int

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """Returns the place that `str` shows, or None for any other text."""
        epoch, _, seq = text.partition(":")
        is_place = len(epoch) == _EPOCH_CHARS and seq.isascii() and seq.isdigit() and len(seq) < 20
        return cls(epoch, int(seq)) if is_place else None

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"


@dataclass(frozen=True, slots=True)
class News:
    """The newest records after a place, oldest first, and how many older ones of them there were besides."""

    traces: list[dict[str, Any]] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0


def place_of(reader: Reader, path: Path) -> Place:
    """Returns the present end of the store at `path`.

    The epoch is made of the number that the database got from its first writer, and of the file's inode, which a copy
    does not share.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    seq, epoch = reader.rows(_STATE)[0]
    try:
        inode = path.stat().st_ino
    except OSError:  # moved away since
        inode = 0
    digest = hashlib.sha256(f"{inode} {epoch}".encode()).hexdigest()
    return Place(digest[:_EPOCH_CHARS], seq or 0)


def news_since(reader: Reader, after: int, until: int, most: int) -> News:
    """Returns the records with a seq above `after`, up to `until`; of each table the newest `most`.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    if until <= after:
        return News()
    traces = _newest(reader, "traces", SUMMARY, (after, until, most))
    logs = _newest(reader, "logs", LOG, (after, until, most))
    skipped = 0
    for table, rows in (("traces", traces), ("logs", logs)):
        if len(rows) == most:
            sql = f"SELECT count(*) FROM {table} WHERE seq > ? AND seq <= ?"  # noqa: S608  # constants
            skipped += reader.rows(sql, (after, until))[0][0] - most
    return News([*map(summary_of, traces)], [*map(log_of, logs)], skipped)


def _newest(reader: Reader, table: str, columns: str, values: tuple[int, int, int]) -> list[tuple[Any, ...]]:
    sql = f"SELECT {columns} FROM {table} WHERE seq > ? AND seq <= ? ORDER BY seq DESC LIMIT ?"  # noqa: S608  # constants
    return reader.rows(sql, values)[::-1]
