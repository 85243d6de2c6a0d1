"""What a service tells systemd, by datagrams of `name=value` lines to the socket in NOTIFY_SOCKET (sd_notify(3)).

    READY=1       the node listens: units that are ordered after it may start
    STATUS=…      a line that `systemctl status` shows
    STOPPING=1    it ends in order
    WATCHDOG=1    the event loop turns; without one for WatchdogSec systemd ends the service and starts it again

The last is sent by the loop itself at half the interval, so that a blocked loop is noticed whatever other threads do.
The variables are removed from the environment when they are read: no child may speak for the service, and the socket is
not inherited. Without the variables nothing is sent. Nothing here raises or waits: a message that cannot be sent is
counted, and the next one is tried again.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

__all__ = ["Notifier"]

_SOCKET: Final = "NOTIFY_SOCKET"
_INTERVAL: Final = "WATCHDOG_USEC"
_PID: Final = "WATCHDOG_PID"
_MAX_STATUS_CHARS: Final = 512
_MAX_DIGITS: Final = 20  # of a number of 64 bits


class Notifier:
    """Tells the manager of this service how it is.

    Args:
        address: of the manager's socket: an absolute path, or a name in the abstract namespace that begins with `@`;
            None: there is no manager.
        watchdog_s: within how many seconds it expects a sign of life, or None.

    Attributes:
        failures: messages that could not be sent.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address = _kernel_form(address)
        self.watchdog_s = watchdog_s if self._address is not None else None
        self.failures = 0
        self._beating: asyncio.Task[None] | None = None

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] | None = None) -> Notifier:
        """Returns the notifier that the environment describes, and removes the variables from it."""
        given = os.environ if environment is None else environment
        address, interval, pid = (given.pop(name, None) for name in (_SOCKET, _INTERVAL, _PID))
        return cls(address, _seconds(interval) if pid in (None, str(os.getpid())) else None)

    def ready(self, status: str) -> None:
        """Tells that the service has started, and begins to send signs of life from the running loop."""
        self._send("READY=1", _status(status))
        if self.watchdog_s is not None and self._beating is None:
            self._beating = asyncio.create_task(self._beat(self.watchdog_s / 2), name="service-watchdog")

    def stopping(self, status: str) -> None:
        """Tells that the service ends; signs of life go on, since an end may take a while."""
        self._send("STOPPING=1", _status(status))

    async def close(self) -> None:
        """Ends the signs of life. Idempotent."""
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating

    async def _beat(self, every_s: float) -> None:
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(every_s)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:  # the manager is away for a moment, or its queue is full
            self.failures += 1


def _kernel_form(address: str | None) -> bytes | None:
    """Returns an address as the kernel takes it; None for one that is not a local socket."""
    if not address or address[0] not in "/@":
        return None
    name = os.fsencode(address)
    return b"\0" + name[1:] if name.startswith(b"@") else name


def _seconds(interval: str | None) -> float | None:
    is_number = interval is not None and len(interval) <= _MAX_DIGITS and interval.isdecimal()
    return (int(interval) / 1e6 or None) if interval is not None and is_number else None


def _status(text: str) -> str:
    """Returns the line that shows a text, which cannot begin a line of its own."""
    return f"STATUS={' '.join(text.split())[:_MAX_STATUS_CHARS]}"
