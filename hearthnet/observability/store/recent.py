"""The newest traces for a process that has no store open: it has closed it, shares a sibling's, or never opened one.

The database is opened for one statement and closed again: a process that only asks must not keep its WAL from being
checkpointed. What this process has finished and not committed is merged in, by the ends of the traces, for it has no
place in the store's order yet; each by itself stays in its own order, whatever the clock did.
"""

from __future__ import annotations

from contextlib import closing
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Final

from hearthnet.constants import DATABASE
from hearthnet.errors import HearthNetError, StoreError
from hearthnet.locations import locate
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.reader import Reader

__all__ = ["read_recent", "warn_unreadable"]

log = get_logger(__name__)

_unreadable: Final[set[str]] = set()  # folders whose database has been warned of
runtime.at_fork(_unreadable.clear)


def read_recent(n: int) -> list[TraceRecord]:
    """Returns the newest `n` traces in SQL and in memory, newest first; those in memory if there is no database."""
    # Before the query: a trace committed in between is in both, and is returned once.
    pending = runtime.recorder.pending_traces()[::-1]
    committed = _committed(n)
    known = set(map(_identity, committed))
    own = [record for record in pending if _identity(record) not in known]
    return list(islice(merge(own, committed, key=_ended_us, reverse=True), n))


def _committed(n: int) -> list[TraceRecord]:
    try:
        directory = runtime.store_dir or locate().data_dir
    except HearthNetError as error:
        _warn("the standard folder", error.message)
        return []
    try:
        with closing(Reader(directory / DATABASE)) as reader:
            found = reader.recent(n)
    except (StoreError, OSError) as error:
        warn_unreadable(directory, str(error))
        return []
    _unreadable.discard(str(directory))
    return found


def warn_unreadable(directory: Path, reason: str) -> None:
    """Logs that the database in `directory` cannot be read, once; not if there is none."""
    if not _is_missing(directory / DATABASE):
        _warn(str(directory), reason)


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # there may be one
        return False
    return False


def _warn(place: str, reason: str) -> None:
    if place not in _unreadable:
        _unreadable.add(place)
        log.warning("telemetry.db cannot be read", extra={"in": place, "reason": reason})


def _identity(record: TraceRecord) -> tuple[str, int]:
    return record.run_id, record.number


def _ended_us(record: TraceRecord) -> float:
    return record.started_us + record.duration_ms * 1_000
