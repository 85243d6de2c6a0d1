"""The memory of accepted signatures on disk, so that a restart goes on with it.

A header and records of 24 bytes: hashes of what was sent in the open, and no secret. Each `append` adds a record; at
8 MB the file is rewritten with what the memory holds then.

Guarantees: what was appended outlives the process, however that ends. Trouble with the file never stops the node:
`read` and `rewrite` log it, and return that it cannot be relied on.
Assumes: one node a folder, one thread. Nothing is synced, so after a power loss the last half minute may be missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final

from hearthnet.files import replace_private
from hearthnet.observability import get_logger

__all__ = ["JOURNAL_FILE", "Record", "ReplayJournal"]

log = get_logger(__name__)

Record = tuple[int, int, int]  # second since the epoch, hash of the sender, hash of the signature

JOURNAL_FILE: Final = "replays.bin"
_HEADER: Final = b"HearthNet replays 1\n"
_RECORD: Final = Struct("<qQQ")
# 87,000 records more than the memory holds. A rewrite of a full memory takes 0.1 s, so it must be rare.
_MAX_BYTES: Final = 8 * 2**20


class ReplayJournal:
    """The file at `path`; made by the first `rewrite`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._left = 0  # records until the next rewrite

    def read(self) -> Iterator[Record] | None:
        """Returns the records, oldest first, or None when some may be missing; a file that is not there misses none."""
        trouble = "it is not a journal"
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return iter(())
        except OSError as error:
            raw, trouble = b"", str(error)
        if not raw.startswith(_HEADER):
            self._warn("replay journal cannot be read; what was signed before this start is refused", trouble)
            return None
        # A kill in the middle of an append leaves a part of a record, of a request that was not answered.
        end = len(raw) - (len(raw) - len(_HEADER)) % _RECORD.size
        return _RECORD.iter_unpack(raw[len(_HEADER) : end])

    def append(self, record: Record) -> bool:
        """Appends a record, in 2 us; returns False when that failed or the file is full, and so to be rewritten.

        After a rewrite that failed it does nothing.
        """
        if self._fd is None:
            return True
        self._left -= 1
        try:
            return os.write(self._fd, _RECORD.pack(*record)) == _RECORD.size and self._left > 0
        except OSError:  # told by the rewrite, if that fails as well
            return False

    def rewrite(self, records: Iterable[Record]) -> bool:
        """Replaces the file by these records; returns False when that failed, and nothing is kept from now on."""
        self.close()
        content = _HEADER + b"".join(_RECORD.pack(*record) for record in records)
        try:
            replace_private(self._path, content, is_synced=False)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            self._warn("replay journal cannot be written; the next start will refuse older requests", str(error))
            with suppress(OSError):  # empty, it tells the next run that records are missing; a full disk permits it
                os.truncate(self._path, 0)
            return False
        self._left = (_MAX_BYTES - len(content)) // _RECORD.size
        return True

    def close(self) -> None:
        """Closes the file; what is appended later is not kept."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _warn(self, message: str, trouble: str) -> None:
        log.warning(message, extra={"path": str(self._path), "error": trouble})
