"""Journal of accepted signatures on disk, so that a restart keeps its replay protection.

A header and records of 24 bytes: hashes of public data, not secrets. Each `append` adds a record; at 8 MB the file is
rewritten with the current contents of memory.

Guarantees: appended records outlive the process, however it ends. File errors never stop the node: `read` and
`rewrite` log them, and return that the journal is unreliable.
Assumes: one node per folder, one thread. Nothing is synced, so a power loss may drop the last half minute.
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
# 87,000 records more than memory holds. A rewrite at the memory limit takes 0.1 s, so it must be rare.
_MAX_BYTES: Final = 8 * 2**20


class ReplayJournal:
    """The journal file at `path`; created by the first `rewrite`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._left = 0  # records until the next rewrite

    def read(self) -> Iterator[Record] | None:
        """Returns the records, oldest first, or None if some may be missing; a missing file has no records."""
        error_text = "it is not a journal"
        try:
            is_other = self._path.exists() and not self._path.is_file()  # a pipe would block
            raw = b"" if is_other else self._path.read_bytes()
        except FileNotFoundError:
            return iter(())
        except OSError as error:
            raw, error_text = b"", str(error)
        if not raw.startswith(_HEADER):
            self._warn("replay journal cannot be read; requests signed before this start are refused", error_text)
            return None
        # A kill during an append leaves a partial record, of a request that got no response.
        end = len(raw) - (len(raw) - len(_HEADER)) % _RECORD.size
        return _RECORD.iter_unpack(raw[len(_HEADER) : end])

    def append(self, record: Record) -> bool:
        """Appends a record, in 2 us; returns False on failure or when the file is full, and must be rewritten.

        Does nothing after a failed rewrite.
        """
        if self._fd is None:
            return True
        self._left -= 1
        try:
            return os.write(self._fd, _RECORD.pack(*record)) == _RECORD.size and self._left > 0
        except OSError:  # logged by the rewrite, if that fails too
            return False

    def rewrite(self, records: Iterable[Record]) -> bool:
        """Replaces the file with these records; returns False on failure, and nothing is kept from then on."""
        self.close()
        content = _HEADER + b"".join(_RECORD.pack(*record) for record in records)
        try:
            replace_private(self._path, content, is_synced=False)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            self._warn("replay journal cannot be written; the next start will refuse older requests", str(error))
            with suppress(OSError):  # an empty file tells the next run that records are missing; a full disk permits it
                os.truncate(self._path, 0)
            return False
        self._left = (_MAX_BYTES - len(content)) // _RECORD.size
        return True

    def close(self) -> None:
        """Closes the file; later appends are not kept."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _warn(self, message: str, error_text: str) -> None:
        log.warning(message, extra={"path": str(self._path), "error": error_text})
