"""Counts what was lost, from the table `gaps`: lately, since the newest run began, and as far back as it is kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hearthnet.database import connect_read_only, store_error
from hearthnet.observability.store.rows import now_us

__all__ = ["Losses", "losses"]

_HOUR_US: Final = 3_600_000_000
# What a run that was killed had lost is noted by the one after it, when that begins.
_BY_REASON: Final = "SELECT reason, sum(count) FROM gaps WHERE ts_us >= ? GROUP BY reason ORDER BY reason"
_BEGAN: Final = "SELECT ifnull(max(started_us), 0) FROM runs"


@dataclass(frozen=True, slots=True)
class Losses:
    """Records that were lost, by reason: in the last hour, since the newest run began, and in all."""

    last_hour: dict[str, int] = field(default_factory=dict)
    since_start: dict[str, int] = field(default_factory=dict)
    in_all: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many that are, in all."""
        return sum(self.in_all.values())

    def as_dict(self) -> dict[str, Any]:
        """Returns them as plain data."""
        return {"last_hour": self.last_hour, "since_start": self.since_start, "in_all": self.in_all}


def losses(path: Path) -> Losses:
    """Returns what was lost to the store at `path`.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    try:
        with closing(connect_read_only(path)) as connection:
            began_us = connection.execute(_BEGAN).fetchone()[0]
            periods = (now_us() - _HOUR_US, began_us, 0)
            return Losses(*(dict(connection.execute(_BY_REASON, (since_us,)).fetchall()) for since_us in periods))
    except sqlite3.Error as error:
        raise store_error(path, error) from error
