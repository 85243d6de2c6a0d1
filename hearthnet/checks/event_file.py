"""Judges an event log's file: whether it is there, ours, sound, and can be written now, and how fast its disk is."""

from __future__ import annotations

import os
import shlex
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

from hearthnet.checks.finding import found
from hearthnet.checks.holder import lock_holders, named
from hearthnet.database import EVENTS, connect_read_only, reason_of, store_error
from hearthnet.errors import DiskFullError, HearthNetError, StoreError, UnusableStoreError
from hearthnet.events.event_log import EventLog
from hearthnet.identity.community import MANIFEST_FILE
from hearthnet.observability.doctor import CheckResult

__all__ = ["judge_event_log"]

_LOCKED_FOR_S: Final = 1.0  # an append takes milliseconds, on a slow card a few hundred; longer is no append
_CHECK_WITHIN_S: Final = 0.8  # a log of a home has a few thousand events, read in a tenth of that
_STEPS_BETWEEN_LOOKS: Final = 10_000
_BLOCK: Final = bytes(4_096)

T = TypeVar("T")


def judge_event_log(path: Path, community_id: str) -> CheckResult:
    """Returns whether the event log at `path` can be relied on; nothing in it is changed."""
    try:
        if not path.is_file():
            return _not_there(path)
        facts: dict[str, Any] = {"path": str(path), "bytes": _bytes(path)}
    except OSError as error:
        return found(False, f"{path} cannot be looked at: {error.strerror}", f"ls -la {_quoted(path.parent)}")
    try:
        identity = _within(_LOCKED_FOR_S, lambda: _identity(path))
        if identity != EVENTS.application_id:
            # Opened as a log, an empty file would become one, and nobody would hear that the events are gone.
            detail = f"{path} is no event log: it is {'empty' if not facts['bytes'] else 'of another program'}"
            return found(False, detail, _restore(path), **facts)
        facts["events"], facts["write_ms"] = _within(_LOCKED_FOR_S, lambda: _written(path, community_id))
        facts["fsync_ms"] = _synced_ms(path.parent)
        damage = _damage(path, facts)
    except (HearthNetError, OSError, sqlite3.Error) as error:
        return _unusable(path, error, facts)
    if damage is not None:
        return found(False, f"{path} is damaged: {damage}", _recover(path), **facts)
    detail = f"{facts['events']} event(s), {facts['bytes']} bytes, writable, synced in {facts['fsync_ms']:.1f} ms"
    return found(True, f"{detail}, {'sound' if facts['integrity'] == 'ok' else 'not all of it checked'}", **facts)


def _not_there(path: Path) -> CheckResult:
    if path.exists():
        aside = f"mv {_quoted(path)} {_quoted(path.with_name(f'{path.name}.aside'))}"
        return found(False, f"{path} is no file; it is in the event log's place", aside, path=str(path))
    # With a manifest there were events: `init` would find the community made and write none.
    fix = _restore(path) if (path.parent / MANIFEST_FILE).exists() else "hearthnet init"
    return found(False, f"no event log at {path}", fix, path=str(path))


def _within(within_s: float, act: Callable[[], T]) -> T:
    """Returns what `act` does, tried again while the database is locked: another may be in the middle of an append."""
    ends_at = monotonic() + within_s
    while True:
        try:
            return act()
        except (StoreError, sqlite3.Error) as error:
            if not _is_locked(error) or monotonic() > ends_at:
                raise


def _is_locked(error: BaseException) -> bool:
    return reason_of(error) == "locked" or (error.__cause__ is not None and reason_of(error.__cause__) == "locked")


def _identity(path: Path) -> int:
    with closing(connect_read_only(path)) as connection:
        return int(connection.execute("PRAGMA application_id").fetchone()[0])


def _written(path: Path, community_id: str) -> tuple[int, float]:
    """Returns how many events there are, and the milliseconds of a write that was taken back."""
    with EventLog(path) as events:
        started = monotonic()
        events.check_writable()
        taken_ms = round((monotonic() - started) * 1_000, 3)
        return events.size(community_id), taken_ms


def _synced_ms(directory: Path) -> float:
    """Returns the milliseconds of a block's way to the disk: what is taken back in a database never gets there.

    The file has no name, so that nothing is left of it however the doctor ends.
    """
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        started = monotonic()
        file.write(_BLOCK)
        os.fsync(file.fileno())
        return round((monotonic() - started) * 1_000, 3)


def _damage(path: Path, facts: dict[str, Any]) -> str | None:
    """Returns the first damage that SQLite finds in the time that there is, or None; notes how far it came."""
    ends_at = monotonic() + _CHECK_WITHIN_S
    with closing(connect_read_only(path)) as connection:
        connection.set_progress_handler(lambda: monotonic() > ends_at, _STEPS_BETWEEN_LOOKS)
        try:
            answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            answer = "unfinished"
    facts["integrity"] = answer
    return None if answer in ("ok", "unfinished") else " ".join(answer.split())


def _unusable(path: Path, error: HearthNetError | OSError | sqlite3.Error, facts: dict[str, Any]) -> CheckResult:
    if _is_locked(error):
        # In WAL mode the locks are on the index; the one that lasts from the time before WAL is on the file.
        holders = lock_holders(path.with_name(f"{path.name}-shm"), path)
        who = named(holders)
        detail = f"{path} is locked by {who or 'another program'} for more than {_LOCKED_FOR_S:g} s"
        fix = f"ps -fp {holders[0].pid}" if holders else f"sudo lsof {_quoted(path)}"
        return found(False, detail, fix, holder=who or None, **facts)
    told = error if isinstance(error, HearthNetError) else store_error(path, error)
    if isinstance(told, DiskFullError):
        return found(False, told.message, f"df -h {_quoted(path.parent)}", **facts)
    if isinstance(told, UnusableStoreError):
        return found(False, told.message, _recover(path), **facts)
    return found(False, told.message, _permit(path), **facts)


def _permit(path: Path) -> str:
    """Returns what lets us write: the file system, or the modes of folder and file."""
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY and sys.platform == "linux":
        return f'sudo mount -o remount,rw "$(findmnt -nT {_quoted(path.parent)} -o TARGET)"'
    sudo = "" if os.geteuid() in (0, path.stat().st_uid) else "sudo "
    return f"{sudo}chmod u+rwX {_quoted(path.parent)} {_quoted(path.parent)}/{path.name}*"


def _restore(path: Path) -> str:
    return f"cp BACKUP/{path.name} {_quoted(path)}"


def _recover(path: Path) -> str:
    """Returns the command that saves what can be read; it needs sqlite3, and changes nothing in place."""
    return f"sqlite3 {_quoted(path)} .recover | sqlite3 {_quoted(path.with_name(f'{path.name}.recovered'))}"


def _bytes(path: Path) -> int:
    beside = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
