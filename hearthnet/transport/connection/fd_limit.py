"""How many connections the descriptors of this process are enough for."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

from hearthnet.observability import get_logger

__all__ = ["RESERVED", "connections_for", "enough_for"]

log = get_logger(__name__)

# Databases, logs, black box and the loop take 25; connections to language models, a check of the doctor, and those that
# are closed but not let go of yet, the rest.
RESERVED: Final = 80


def connections_for(wanted: int) -> int:
    """Returns how many of the wanted connections there can be; raises the soft limit of descriptors if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + RESERVED
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with suppress(OSError, ValueError):  # forbidden: what there is has to do
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
    """Returns how many of the wanted connections this process's descriptors suffice for, and how many it may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    is_enough = soft == resource.RLIM_INFINITY or soft >= wanted + RESERVED
    return wanted if is_enough else max(1, soft - RESERVED), soft
