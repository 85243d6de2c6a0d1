"""The black boxes in a purge: those of dead runs go into the database, and their bytes are overwritten."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hearthnet.database import store_error
from hearthnet.errors import DiskFullError
from hearthnet.forensics import box as layout
from hearthnet.observability.budget import Budget
from hearthnet.observability.ids import new_trace_id
from hearthnet.observability.store.lock import StoreInUseError
from hearthnet.observability.store.opening import open_store
from hearthnet.observability.store.recovery import dead_boxes

__all__ = ["absorb", "box_pid", "refuse_living"]

_BLOCK: Final = bytes(1 << 20)


def box_pid(path: Path) -> int | None:
    """Returns which process wrote a box, None where it does not say."""
    try:
        with path.open("rb") as file:
            header = layout.read_header(file.read(layout.HEADER_BYTES))
    except OSError:  # taken in, or not ours to read
        return None
    return None if header is None else header.pid


def refuse_living(directory: Path) -> None:
    """Checks that no living process has a black box here.

    Raises:
        StoreInUseError: raised when one has, with its number.
    """
    dead = {path for path, _ in dead_boxes(directory)}
    for path in layout.boxes_in(directory):
        if path not in dead:
            raise StoreInUseError(
                f"process {box_pid(path) or 'of unknown number'} is recording into {path}",
                hint="end it first, then try again",
            )


def absorb(store: Path, budget: Budget, *, is_kept: bool) -> None:
    """Takes the dead boxes into the database, as the node's next start would, and overwrites their bytes.

    Args:
        store: the database.
        budget: its bounds.
        is_kept: whether some of a box may have to stay. If not, a box that finds no room is removed.

    Raises:
        StoreError: raised when the store cannot be opened.
        DiskFullError: raised when the database has no room for them.
    """
    boxes = [path for path, _ in dead_boxes(store.parent)]
    if not boxes and not store.exists():
        return
    # Opened before: a box that is in the database is removed there, and these lead to its bytes still.
    opened = [(path, os.open(path, os.O_WRONLY | os.O_CLOEXEC)) for path in boxes]
    try:
        open_store(store, budget, new_trace_id())
        for path, fd in opened:
            if path.exists():
                _give_up(path, is_kept)
            _overwrite(path, fd)
    finally:
        for _, fd in opened:
            os.close(fd)


def _give_up(path: Path, is_kept: bool) -> None:
    """Removes a box that could not be taken in, unless some of it may have to stay."""
    if is_kept:
        raise DiskFullError(f"{path} cannot be taken into the database", hint="free some space and try again")
    path.unlink()


def _overwrite(path: Path, fd: int) -> None:
    try:
        size = os.fstat(fd).st_size
        for at in range(0, size, len(_BLOCK)):
            os.pwrite(fd, _BLOCK[: size - at], at)
        os.fsync(fd)
    except OSError as error:
        raise store_error(path, error) from error
