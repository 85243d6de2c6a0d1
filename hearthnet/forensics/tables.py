"""The columns of the store's tables as this program writes them, and those that a black box keeps of a record.

Written out, not taken from the records: this folder imports the standard library alone. Tests compare them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["COLUMNS", "FRAMES", "JSON_LAST", "NEWEST_VERSION"]

NEWEST_VERSION: Final = 6  # what this program writes; a newer one is read by the names that it still has

# In the order in which the migrations have made them, but for `runs`.
COLUMNS: Final = {
    "traces": (
        "seq", "run_id", "trace_id", "parent_id", "capability", "version", "started_us", "started_mono_ns",
        "duration_ms", "result", "error", "notable", "spans", "extras",
    ),
    "logs": (
        "seq", "run_id", "ts_us", "level", "logger", "msg", "trace_id", "span_id", "notable", "repeats", "extras",
        "exc",
    ),
    "gaps": ("seq", "ts_us", "kind", "reason", "count"),
    "runs": (
        "run_id", "node_id", "version", "pid", "boot_id", "started_us", "ended_us", "end_reason", "last_seen_us",
        "vitals", "program", "role",
    ),
}  # fmt: skip

_NO_RUN: Final = "run_id"  # the box's header has it
JSON_LAST: Final = ("spans", "extras")  # of a trace's frame: they are JSON already, so they are appended as they are
# The values of a frame's payload, in their order.
FRAMES: Final = {
    "traces": (*(name for name in COLUMNS["traces"] if name not in (_NO_RUN, *JSON_LAST)), *JSON_LAST),
    "logs": tuple(name for name in COLUMNS["logs"] if name != _NO_RUN),
}
