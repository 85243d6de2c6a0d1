"""Which processes record into a store: some work on it must not happen meanwhile."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from hearthnet.constants import DATABASE
from hearthnet.database import connect_read_only
from hearthnet.errors import StoreError
from hearthnet.forensics import box as layout
from hearthnet.observability.store.lock import StoreInUseError
from hearthnet.observability.store.recovery.recover import is_written

__all__ = ["refuse_living"]

_OPEN_RUNS: Final = "SELECT run_id, pid FROM runs JOIN state ON name = run_id WHERE ended_us IS NULL AND boot_id = ?"


def refuse_living(directory: Path, *, may_be_copy: bool = False) -> None:
    """Checks that no process records into the store.

    Args:
        directory: of the store.
        may_be_copy: whether the files may be copies of a store elsewhere. They name processes that write the original:
            then only the lock of a box counts, which a copy does not have.

    Raises:
        StoreInUseError: raised when one does, with its pid.
    """
    is_held = layout.is_locked if may_be_copy else is_written
    boxes = layout.boxes_in(directory)
    for path in filter(is_held, boxes):
        header = layout.header_of(path)
        raise _in_use("of unknown number" if header is None else header.pid, path)
    if not may_be_copy:
        headers = filter(None, map(layout.header_of, boxes))
        for pid in _living_without_box(directory / DATABASE, {header.run_id for header in headers}):
            raise _in_use(pid, directory / DATABASE)


def _in_use(process: int | str, path: Path) -> StoreInUseError:
    return StoreInUseError(
        f"process {process} is recording into {path}",
        hint="stop the node first, and other programs that record, then try again",
    )


def _living_without_box(path: Path, with_box: set[str]) -> Iterator[int]:
    """Yields the pids of open runs that the budget had no space for a box for, or whose box was removed."""
    if not Path(f"{os.path.realpath(path)}-wal").exists():  # who writes has it; and to read would make one
        return
    try:
        with closing(connect_read_only(path)) as connection:
            found = connection.execute(_OPEN_RUNS, (layout.this_boot(),)).fetchall()
    except (StoreError, sqlite3.Error):  # none, a damaged one, or of a version that had no such runs
        return
    for run_id, pid in found:
        if run_id not in with_box and pid != os.getpid() and layout.process_start(pid) is not None:
            yield pid
