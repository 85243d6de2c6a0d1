"""Records in the journal of systemd, with their fields, in its native protocol: a datagram to its socket for each.

    journalctl -u hearthnet -p warning
    journalctl -u hearthnet TRACE_ID=01M8MXPDA831G2S0GZETXTBR6A
    journalctl -u hearthnet HEARTHNET_CAPABILITY=llm.chat -o json

A record is sent as it is in the JSON log: redacted and bounded. Its message has the fields and the traceback too, for a
reader that shows nothing else; each field besides has a name of its own. One that is too large for a datagram goes
through a sealed memory file, whose descriptor is sent instead.

Nothing here raises or waits: a record that the journal does not take, because it is not there, restarts, or is slow, is
counted, and the next one is tried again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from hearthnet.observability.logs.messages import Entry

__all__ = ["SOCKET", "Journal", "is_of_journal", "journal_of_stderr"]

SOCKET: Final = "/run/systemd/journal/socket"
_IDENTIFIER: Final = "hearthnet"
# The numbers of syslog.
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_NAME: Final = re.compile("[^A-Z0-9_]")
_MAX_NAME_CHARS: Final = 64  # the journal drops a field with a longer one
_MAX_FIELDS: Final = 32
_SEALS: Final = 0x0001 | 0x0002 | 0x0004 | 0x0008  # F_SEAL_SEAL, _SHRINK, _GROW, _WRITE: it cannot change any more
_ADD_SEALS: Final = 1_033


def journal_of_stderr(environment: Mapping[str, str] | None = None, address: str = SOCKET) -> Journal | None:
    """Returns the journal if standard error goes there, as systemd sets it up for a service; else None."""
    given = os.environ if environment is None else environment
    return Journal(address) if is_of_journal(given.get("JOURNAL_STREAM", ""), 2) else None


def is_of_journal(stream: str, fd: int) -> bool:
    """Returns whether a descriptor is the stream that JOURNAL_STREAM names by its device and inode.

    A child may have inherited the variable and have its output redirected.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


class Journal:
    """Sends records to the journal.

    Guarantees:
        - `send` never raises and never waits; several threads may call it.
        - It takes no lock but to count: a forked child, too, may go on with it.

    Attributes:
        dropped: records that were not taken.
    """

    def __init__(self, address: str = SOCKET) -> None:
        self._address = address
        # Not connected: a connection would not outlast a restart of the journal.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.dropped = 0

    def close(self) -> None:
        """Closes the socket. A record that is sent later is counted as dropped."""
        self._socket.close()

    def send(self, entry: Entry) -> None:
        """Sends a record."""
        message = entry.message
        fields = dict(_fields(entry.extras))
        exc = None if entry.exc is None else entry.exc[0]
        parts = {"MESSAGE": _text(message.text, fields, exc), "LOGGER": message.logger}
        ids = {"TRACE_ID": entry.trace_id, "SPAN_ID": entry.span_id, "AFTER_TRACE": entry.after_trace}
        parts |= {name: value for name, value in ids.items() if value is not None}
        if entry.repeats:
            parts["REPEATS"] = str(entry.repeats)
        self._send_parts(message.level, parts | _named(fields))

    def send_text(
        self, level: str, logger: str, text: str, fields: Mapping[str, Any], trace_id: str | None = None
    ) -> None:
        """Sends a record that is given in parts, clean ones: the line of a trace, a count of repeats."""
        shown = {key: _value(value) for key, value in fields.items()}
        parts = {"MESSAGE": _text(text, shown, None), "LOGGER": logger}
        if trace_id is not None:
            parts["TRACE_ID"] = trace_id
        self._send_parts(level, parts | _named(shown))

    def _send_parts(self, level: str, parts: Mapping[str, str]) -> None:
        head = {"PRIORITY": str(_PRIORITIES.get(level, 6)), "SYSLOG_IDENTIFIER": _IDENTIFIER}
        try:
            self._send_bytes(b"".join(_encoded(name, value) for name, value in (head | dict(parts)).items()))
        except OSError:
            self.dropped += 1

    def _send_bytes(self, content: bytes) -> None:
        try:
            self._socket.sendto(content, self._address)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(content)

    def _send_file(self, content: bytes) -> None:
        """Sends a record as a memory file that is sealed: the journal reads no other."""
        if sys.platform != "linux":
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        fd = os.memfd_create("hearthnet-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, _ADD_SEALS, _SEALS)
            sent = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
            self._socket.sendmsg([], sent, 0, self._address)
        finally:
            os.close(fd)


def _encoded(name: str, value: str) -> bytes:
    """Returns a field; one of several lines has its length before it, so that no line of it is another field."""
    raw = value.encode("utf-8", "backslashreplace")
    if b"\n" in raw:
        return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(raw)), raw)
    return b"%b=%b\n" % (name.encode(), raw)


def _fields(extras: bytes) -> Iterator[tuple[str, str]]:
    """Yields the fields of a record with their values as text."""
    if len(extras) <= 2:  # "{}"
        return
    with suppress(ValueError):  # nested deeper than orjson reads: the message is what can be shown
        for key, value in orjson.loads(extras).items():
            yield key, _value(value)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _named(fields: Mapping[str, str]) -> dict[str, str]:
    """Returns the fields by names that the journal takes, and that are none of its own: `HEARTHNET_…`."""
    named: dict[str, str] = {}
    for key, value in list(fields.items())[:_MAX_FIELDS]:
        named.setdefault(f"HEARTHNET_{_NAME.sub('_', key.upper())}"[:_MAX_NAME_CHARS], value)
    return named


def _text(text: str, fields: Mapping[str, str], exc: str | None) -> str:
    shown = "  ".join((text, *(f"{key}={value}" for key, value in fields.items())))
    return shown if exc is None else f"{shown}\n{exc}"
