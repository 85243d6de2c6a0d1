"""The marks of traces in flight in a black box: the slots of its table.

A module of its own, because programs that make traces import it, and read no box.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "CAPABILITY_BYTES", "ENTRY", "ENTRY_BYTES", "SPAN", "SPAN_AT", "SPAN_MARK_AT", "TRACE", "TRACE_MARK_AT",
]  # fmt: skip

ENTRY_BYTES: Final = 160
CAPABILITY_BYTES: Final = 64  # a longer name is cut in the table
# trace id, capability, started (UTC us), started (monotonic ns), 1 while in flight. The mark is last: struct clears the
# slot first and fills it in order, so a marked slot is complete.
TRACE: Final = struct.Struct(f"<26s{CAPABILITY_BYTES}sqqB")
TRACE_MARK_AT: Final = TRACE.size - 1
# The same with the span's part cleared before the mark is set.
ENTRY: Final = struct.Struct(f"{TRACE.format}53x")
# name, started (monotonic ns), 1 while a span is open
SPAN: Final = struct.Struct("<44sqB")
SPAN_AT: Final = TRACE.size
SPAN_MARK_AT: Final = TRACE.size + SPAN.size - 1
