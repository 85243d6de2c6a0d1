"""The ends of threads, before a fork: Python 3.12 and newer count those that the kernel knows, and warn of a second."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread
from typing import Final

TYPE_CHECKING = False
if TYPE_CHECKING:
    import aiosqlite

__all__ = ["close_with_thread", "has_ended"]

_POLL_S: Final = 0.0002
_CLOSED_S: Final = 1.0  # for a thread that has nothing left to do


def has_ended(thread: Thread, within_s: float) -> bool:
    """Waits for the end of a thread, and until the kernel has forgotten it; returns False after `within_s`."""
    ends_at = time.monotonic() + within_s
    thread.join(within_s)
    task = Path(f"/proc/self/task/{thread.native_id}")
    while task.exists() and time.monotonic() < ends_at:
        time.sleep(_POLL_S)
    return not thread.is_alive()


async def close_with_thread(connection: aiosqlite.Connection) -> None:
    """Closes a connection, and waits for the end of its thread, which has nothing else to do."""
    await connection.close()
    worker = getattr(connection, "_thread", connection)  # before 0.22 the connection was a thread itself
    if isinstance(worker, Thread):
        has_ended(worker, _CLOSED_S)
