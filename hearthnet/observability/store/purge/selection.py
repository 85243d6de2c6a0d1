"""The records that a purge erases, as SQL conditions.

A record belongs to a capability when it is a trace of it, names it as a whole JSON value or key (with or without a
version; the span of a caller's trace does), or has the id of such a trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from hearthnet.forensics.marks import CAPABILITY_BYTES
from hearthnet.observability.records.results import INTERRUPTED

__all__ = ["TRACE_END", "Selection"]

TRACE_END: Final = "started_us + duration_ms * 1000"  # microseconds
_BEFORE: Final = {
    "logs": "ts_us < :before",
    "traces": f"{TRACE_END} < :before",
    "gaps": "ts_us < :before",
    "runs": "ended_us < :before",  # a run without an end may be running
}
# Ids are unlike any other text, so a text search finds them. `after_trace`, the mark of other work, does not count.
_OF_TRACE: Final = {
    "logs": "trace_id = :id OR instr(replace(extras, :mark, ''), :id) OR instr(msg, :id) OR instr(exc, :id)",
    "traces": "trace_id = :id OR instr(spans, :id) OR instr(extras, :id) OR instr(error, :id)",
}
_NAMED: Final = (
    "(instr({0}, :escaped) AND EXISTS (SELECT 1 FROM json_tree({0}) WHERE :name IN"
    " (key, atom, substr(key, 1, instr(key, '@') - 1), substr(atom, 1, instr(atom, '@') - 1))))"
)
# The box truncates the name of a trace in flight.
_IDS: Final = (
    "trace_id IN (SELECT trace_id FROM traces"  # noqa: S608  # constants
    f" WHERE capability = :name OR (result = '{INTERRUPTED}' AND capability = :cut)"
    f" OR {_NAMED.format('spans')} OR {_NAMED.format('extras')})"
)
_OF_CAPABILITY: Final = {"logs": f"{_IDS} OR {_NAMED.format('extras')}", "traces": _IDS}


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects records to erase by exactly one of its fields.

    Attributes:
        everything: all records.
        before_us: records from before this time in UTC microseconds; a trace is recorded at its end.
        capability: records of this name, given without a version. Selects no lines of the JSON log.
        trace_id: a trace, and every record that has its id anywhere, but not those of work that has outlived it.
    """

    everything: bool = False
    before_us: int | None = None
    capability: str | None = None
    trace_id: str | None = None

    @property
    def conditions(self) -> dict[str, str]:
        """The condition for each table with rows to delete, in the order of deletion: `logs` refers to `traces`."""
        if self.everything:
            return dict.fromkeys(_BEFORE, "1")
        if self.before_us is not None:
            return _BEFORE
        return _OF_TRACE if self.trace_id is not None else _OF_CAPABILITY

    @property
    def values(self) -> dict[str, Any]:
        """The values of the parameters in `conditions`."""
        name = self.capability or ""
        return {
            "before": self.before_us,
            "id": self.trace_id,
            "mark": self._mark.decode(),
            "name": name,
            "escaped": self.escaped.decode(),
            "cut": name.encode()[:CAPABILITY_BYTES].decode("utf-8", "ignore"),
        }

    def is_mentioned(self, line: bytes) -> bool:
        """Returns whether a JSON line has the trace's id."""
        return self.trace_id is not None and self.trace_id.encode() in line.replace(self._mark, b"")

    @property
    def _mark(self) -> bytes:
        """The field of a record made by work that has outlived the trace: another's, or of none."""
        return b'"after_trace":"%b"' % (self.trace_id or "").encode()

    @property
    def escaped(self) -> bytes:
        """The capability's name as it appears within a JSON string."""
        return orjson.dumps(self.capability or "")[1:-1]
