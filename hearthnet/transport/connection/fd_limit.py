"""Limits the number of connections to what the file descriptors of this process allow."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

from hearthnet.observability import get_logger

__all__ = ["RESERVED", "connections_for", "enough_for"]

log = get_logger(__name__)

# Databases, logs, box and loop take 25; the rest is for language model connections, a doctor check, and sockets that
# are closed but not released yet.
RESERVED: Final = 80


def connections_for(wanted: int) -> int:
    """Returns how many of the wanted connections are possible; raises the soft descriptor limit if needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + RESERVED
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with suppress(OSError, ValueError):  # not permitted: keep the current limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most, soft = enough_for(wanted)
    if most < wanted:
        hint = (
            f"raise the limit of open files to {need} (ulimit -n, LimitNOFILE=); or lower [transport] max_connections"
        )
        shown = {"max_connections": most, "descriptors": soft, "hint": hint}
        log.warning("fewer connections than configured", extra=shown)
    return most


def enough_for(wanted: int) -> tuple[int, int]:
    """Returns how many of the wanted connections the descriptors allow, and the descriptor limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    is_enough = soft == resource.RLIM_INFINITY or soft >= wanted + RESERVED
    return wanted if is_enough else max(1, soft - RESERVED), soft
