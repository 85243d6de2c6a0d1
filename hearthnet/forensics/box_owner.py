"""Whether the process that wrote a box still runs: by its lock, its pid, its boot and its start."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hearthnet.forensics.box import Header

__all__ = ["is_alive", "is_locked", "process_start", "this_boot"]


def this_boot() -> str:
    """Returns the kernel's id of this boot; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # not Linux
        return ""


def process_start(pid: int) -> int | None:
    """Returns when a process started, in clock ticks since boot; 0 if unknown; None if it is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return _unknown_start(pid)
    except OSError:
        return None
    # The name, in parentheses, may contain anything; the start time is the twentieth field after it.
    behind = status[status.rfind(b")") + 2 :].split()
    return None if behind[:1] == [b"Z"] else int(behind[19])


def _unknown_start(pid: int) -> int | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def is_locked(path: Path) -> bool:
    """Returns True if a process holds the box's lock, as its writer does until it exits.

    This also detects a writer in another pid namespace, such as a container on the same volume.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its writer
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def is_alive(header: Header) -> bool:
    """Returns True if the process that wrote a box still runs: pid, boot and start all agree."""
    return header.boot_id == this_boot() and process_start(header.pid) == header.process_start
