"""The columns of the store's tables as this program writes them, and those that a black box keeps of a record.

Written out, not taken from the records: this folder imports the standard library alone. Tests compare them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


__all__ = ["COLUMNS", "FRAMES", "NEWEST_VERSION", "PAYLOAD_VERSION"]

NEWEST_VERSION: Final = 9  # what this program writes; a newer one is read by the names that it still has

# In the order in which the migrations have made them, but for `runs`.
COLUMNS: Final = {
    "traces": (
        "seq", "run_id", "trace_id", "parent_id", "capability", "version", "started_us", "started_mono_ns",
        "duration_ms", "result", "error", "notable", "spans", "extras", "number",
    ),
    "logs": (
        "seq", "run_id", "ts_us", "level", "logger", "msg", "trace_id", "span_id", "notable", "repeats", "extras",
        "exc", "number",
    ),
    "gaps": ("seq", "ts_us", "kind", "reason", "count", "run_id"),
    "runs": (
        "run_id", "node_id", "version", "pid", "boot_id", "started_us", "ended_us", "end_reason", "last_seen_us",
        "vitals", "program", "role",
    ),
}  # fmt: skip

PAYLOAD_VERSION: Final = 2  # of the frames that this program writes
_NOT_IN_FRAMES: Final = ("seq", "run_id", "number")  # the commit gives the first, the box's header has the second


def _frame(table: str, first: str) -> tuple[str, ...]:
    return (first, *(name for name in COLUMNS[table] if name not in _NOT_IN_FRAMES))


# The values of a frame's payload in their order, by the version of the payload. Until version 2 a record's number was
# the one that it had in the database, too.
FRAMES: Final = {
    version: {table: _frame(table, first) for table in ("traces", "logs")}
    for version, first in ((1, "seq"), (PAYLOAD_VERSION, "number"))
}
