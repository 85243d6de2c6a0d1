"""What SQLite keeps beside a database, and why it may refuse to write there: `-wal`, `-shm`, `-journal`, limits.

SQLite's words for most of it are `disk I/O error` or `unable to open database file`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from hearthnet.errors import StoreError
from hearthnet.files import why_not_regular

__all__ = ["because", "has_no_file_left", "lengthen_shm", "parts_beside", "unfinished", "why_unusable"]

_SHM_BYTES: Final = 32_768  # SQLite maps -shm in such pieces
_PAGE_BYTES: Final = 4_096


def parts_beside(path: Path) -> list[Path]:
    """Returns the files of a database; the others are beside the file itself, not beside a link to it."""
    whole = Path(os.path.realpath(path))
    return [path, *(whole.with_name(whole.name + ending) for ending in ("-wal", "-shm", "-journal"))]


def why_unusable(file: Path, path: Path) -> str | None:
    """Returns why SQLite cannot use one of the files of the database at `path`; None if it can, or there is none."""
    is_link = file != path and file.is_symlink()  # the database may be one
    try:
        reason = why_not_regular(file.stat().st_mode)
    except OSError:  # missing, mostly; SQLite reports everything else
        return "it is a link to nothing" if is_link else None
    return reason or ("it is a link, which SQLite does not follow" if is_link else None)


def unfinished(path: Path) -> StoreError:
    """Returns the error for a database whose `-journal` has a change to take back, which a reader may not."""
    return StoreError(
        f"{path} cannot be read: a process was killed while it made it, and left its -journal",
        hint="the next start takes back what was unfinished: hearthnet run, or the program that records there",
    )


def because(path: Path, error: BaseException) -> str:
    """Returns the limit that SQLite calls an I/O error or a file that cannot be opened, in words to add, or nothing."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    reason = None
    if code == sqlite3.SQLITE_IOERR:
        reason = _at_size_limit(path) or _beyond_quota(path.parent)
    elif code == sqlite3.SQLITE_CANTOPEN and has_no_file_left():
        reason = "this process may open no more files: ulimit -n"
    elif code == sqlite3.SQLITE_CANTOPEN:
        with suppress(OSError):
            status = os.statvfs(path.parent)
            reason = "the disk has no inode left" if status.f_files and not status.f_favail else None
    return f" ({reason})" if reason else ""


def has_no_file_left() -> bool:
    """Returns whether this process, or the system, has as many files open as it may."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _at_size_limit(path: Path) -> str | None:
    import resource  # late: only needed here; not on Windows

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    sizes = []
    for part in parts_beside(path):
        with suppress(OSError):
            sizes.append(part.stat().st_size)
    # SQLite may write up to a page of the WAL and its header beyond the end, or -shm, at once.
    is_near = max(sizes, default=0) + 2 * _PAGE_BYTES >= limit or limit <= _SHM_BYTES
    return f"this process may write no file larger than {limit:,} bytes: ulimit -f" if is_near else None


def _beyond_quota(folder: Path) -> str | None:
    """Returns whether the quota of this user is used up, which shows only where something is written."""
    import tempfile  # late: it imports a dozen modules

    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".telemetry-", buffering=0) as file:  # of mode 0600
            file.write(bytes(_SHM_BYTES))
            os.fsync(file.fileno())
    except OSError as error:
        return "the disk quota of this user is used up" if error.errno == errno.EDQUOT else None
    return None


def lengthen_shm(path: Path, seen: int = _SHM_BYTES) -> None:
    """Gives a `-shm` that was cut the size that it had: whatever touched the missing part would be ended by SIGBUS.

    It gets zeros: SQLite makes it anew from the WAL, where it would believe a header that is left. By its path: to open
    and close the file would drop the locks that SQLite holds on it.
    """
    with suppress(OSError):
        if path.stat().st_size < seen:
            os.truncate(path, 0)
            os.truncate(path, seen)
