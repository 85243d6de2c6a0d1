"""Why a node of ours that runs does not respond: by its black box, which it samples whatever its port does.

Only a node that is known to be stuck is worth killing.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hearthnet.forensics.box import HEADER_BYTES, boxes_in, header_of, vitals_in
from hearthnet.forensics.model import Vitals

__all__ = ["Silence", "explain_silence"]

_FRESH_S: Final = 10.0  # a sample is due every 2 s
_STUCK_S: Final = 2.0
_LOOPBACK: Final = "127.0.0.1"


class Silence(NamedTuple):
    """Why a node does not respond, in words that follow "but", and what to do."""

    why: str
    fix: str


def explain_silence(directory: Path, pid: int, host: str) -> Silence:
    """Returns why a node does not respond that runs as `pid` and records into `directory`.

    Args:
        directory: of the store.
        pid: of the node.
        host: the address at which it listens.
    """
    if _state_of(pid) in ("T", "t"):
        return Silence("it was stopped by a signal", f"kill -CONT {pid}")
    sample = next(_last_samples(directory, pid), None)
    if sample is None or sample.loop_lag_s is None:  # the watchdog is off
        return Silence("nothing says whether it is stuck", "hearthnet log --level warning")
    age_s = time.time() - sample.ts_us / 1e6
    lag_s = sample.loop_lag_s if age_s < _FRESH_S else age_s
    if lag_s >= _STUCK_S:
        # Its records are in the black box, and the next start recovers them.
        return Silence(f"it has been stuck for {lag_s:.0f} s; kill it: its records are kept", f"kill -KILL {pid}")
    if host in ("0.0.0.0", _LOOPBACK) and not _has_loopback():  # noqa: S104  # to compare, not to bind
        fix = f"sudo ip address add {_LOOPBACK}/8 dev lo"
        why = f'its event loop responds: this machine has no {_LOOPBACK}; add it, or set [transport] host = "::"'
        return Silence(why, fix)
    why = "its event loop responds: it is busy, or something between keeps connections from it"
    return Silence(why, "hearthnet log --level warning; sudo nft list ruleset")


def _last_samples(directory: Path, pid: int) -> Iterator[Vitals]:
    """Yields the newest sample of each box of the process."""
    for path in boxes_in(directory):
        header = header_of(path)
        if header is not None and header.pid == pid:
            try:
                with path.open("rb") as file:
                    yield from vitals_in(file.read(HEADER_BYTES), header.layout)[-1:]
            except OSError:  # it ended meanwhile
                continue


def _state_of(pid: int) -> str:
    """Returns the kernel's letter for the state of a process; empty if unknown."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[0]


def _has_loopback() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((_LOOPBACK, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True
