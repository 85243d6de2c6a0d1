"""The ends of threads, before a fork: Python 3.12 and newer count those that the kernel knows, and warn of a second."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread
from typing import Final

__all__ = ["has_ended"]

_POLL_S: Final = 0.0002


def has_ended(thread: Thread, within_s: float) -> bool:
    """Waits for the end of a thread, and until the kernel has forgotten it; returns False after `within_s`."""
    ends_at = time.monotonic() + within_s
    thread.join(within_s)
    task = Path(f"/proc/self/task/{thread.native_id}")
    while task.exists() and time.monotonic() < ends_at:
        time.sleep(_POLL_S)
    return not thread.is_alive()
