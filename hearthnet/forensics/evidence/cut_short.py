"""Files of the store that programs map into memory, and that are shorter than they must be.

To touch a page that a mapped file no longer has is a bus error (SIGBUS), which ends the process: so the file that was
cut short, by a tool that truncates or restores files in place, is the cause.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hearthnet.forensics.box import HEADER_BYTES, boxes_in, header_of
from hearthnet.forensics.evidence.safe_stat import is_file, listed

__all__ = ["BUS_ERROR", "CUT_SHORT", "cut_short", "shortage_of"]

BUS_ERROR: Final = "Bus error"  # faulthandler's words
CUT_SHORT: Final = "Cut short: "  # begins a line that is added to a fault file
_SHM_BYTES: Final = 32_768  # SQLite's -shm grows by as many


def cut_short(directory: Path, pid: int) -> list[str]:
    """Returns a line for each mapped file that is too short: the box of process `pid`, and each -shm."""
    boxes = (path for path in boxes_in(directory) if path.name.split(".")[1] == str(pid))
    files = [*boxes, *listed(directory, "telemetry.db-shm")]
    return [f"{CUT_SHORT}{path.name} has {short}" for path in files if (short := shortage_of(path))]


def shortage_of(path: Path) -> str:
    """Returns how long a box or a -shm is and should be; empty if it is long enough, gone, or something else."""
    try:
        size = path.stat().st_size if is_file(path) else None
    except OSError:  # gone since it was listed
        return ""
    if size is None:
        return ""
    if path.name.endswith("-shm"):
        return f"{size:,} bytes, and should have {_SHM_BYTES:,} or a multiple" if size % _SHM_BYTES or not size else ""
    header = header_of(path)
    whole = HEADER_BYTES if header is None else header.total_bytes
    return f"{size:,} of {'at least ' if header is None else ''}{whole:,} bytes" if size < whole else ""
