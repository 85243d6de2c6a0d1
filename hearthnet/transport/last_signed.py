"""When each member last signed a request that was answered, in a file, so that the next run refuses what this one saw.

A run knows when it began. That is not enough: a sender's clock may be ahead, so that a request of the last run says it
was signed in this one; a node may be back within the second; and its own clock may be set back while it is away.

A line of 64 bytes for each sender, written in place when its second is a new one; it outlives a kill. It is not synced:
after a power loss half a minute of it may be gone, in which time a machine is hardly up again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S
from hearthnet.files import make_private_dir
from hearthnet.identity.keys import is_node_id
from hearthnet.observability import get_logger

__all__ = ["LAST_SIGNED_FILE", "LastSigned"]

log = get_logger(__name__)

LAST_SIGNED_FILE: Final = "last_signed.txt"
_LINE_BYTES: Final = 64
_ID_CHARS: Final = 51  # `ed25519:` and 43 characters; with a space, 11 digits and the end of the line that is 64
_DIGITS: Final = 11
_MOST: Final = 4_096  # lines; members alone have one


class LastSigned:
    """The file of one community. Used in one thread, that of the event loop.

    Args:
        path: the file; made if it is not there. What cannot be read or written is told in the log, and done without.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        self._seconds: dict[str, int] = {}
        self._fd = self._open()
        self._before = dict(self._seconds)

    def was_before(self, sender: str, second: int) -> bool:
        """Tells whether an earlier run may have answered what this sender signed in that second of the epoch.

        Two minutes before the last such second nothing was fresh any more, so a clock that was years ahead closes no
        more than those.
        """
        last = self._before.get(sender)
        return last is not None and last - 2 * PROTOCOL_TIMESTAMP_WINDOW_S <= second <= last

    def note(self, sender: str, second: int) -> None:
        """Notes that a request of this sender, signed in that second, is answered now."""
        if second <= self._seconds.get(sender, -1):
            return
        self._seconds[sender] = second
        place = self._places.get(sender)
        if place is None:
            place = self._places[sender] = self._free_place()
        self._write(place, f"{sender} {second:0{_DIGITS}}\n".encode())

    def close(self) -> None:
        """Closes the file; what is noted after that is forgotten at the end of the run."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _free_place(self) -> int:
        if len(self._places) < _MOST:
            return max(self._places.values(), default=-1) + 1
        oldest = min(self._places, key=lambda sender: self._seconds[sender])
        del self._seconds[oldest]
        return self._places.pop(oldest)

    def _open(self) -> int | None:
        try:
            make_private_dir(self._path.parent)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._tell(error)
            return None
        with suppress(OSError):  # a folder, say: writing tells of it
            self._read(os.pread(fd, _MOST * _LINE_BYTES, 0))
        return fd

    def _read(self, raw: bytes) -> None:
        for place in range(len(raw) // _LINE_BYTES):
            line = raw[place * _LINE_BYTES : (place + 1) * _LINE_BYTES].decode("ascii", "replace")
            sender, digits = line[:_ID_CHARS], line[_ID_CHARS + 1 : -1]
            if is_node_id(sender) and digits.isdecimal() and sender not in self._places:
                self._places[sender], self._seconds[sender] = place, int(digits)

    def _write(self, place: int, line: bytes) -> None:
        if self._fd is None:
            return
        try:
            os.pwrite(self._fd, line, place * _LINE_BYTES)
        except OSError as error:
            self._tell(error)
            self.close()

    def _tell(self, error: OSError) -> None:
        log.warning(
            "times of requests cannot be kept; after a restart one may be sent again",
            extra={"path": str(self._path), "error": str(error)},
        )
