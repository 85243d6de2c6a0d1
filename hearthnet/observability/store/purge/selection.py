"""Which records a purge takes, as conditions in SQL.

A record belongs to a capability when it is a trace of it, names it as a whole JSON value or key (with or without a
version; the span of a caller's trace does), or has the id of such a trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from hearthnet.forensics.box import CAPABILITY_BYTES
from hearthnet.observability.records.results import INTERRUPTED

__all__ = ["TRACE_END", "Selection"]

TRACE_END: Final = "started_us + duration_ms * 1000"  # microseconds
_BEFORE: Final = {
    "logs": "ts_us < :before",
    "traces": f"{TRACE_END} < :before",
    "gaps": "ts_us < :before",
    "runs": "ended_us < :before",  # one without an end may be running
}
# An id is unlike any other text, so it is sought as a text.
_OF_TRACE: Final = {
    "logs": "trace_id = :id OR instr(extras, :id) OR instr(msg, :id) OR instr(exc, :id)",
    "traces": "trace_id = :id OR instr(spans, :id) OR instr(extras, :id) OR instr(error, :id)",
}
_NAMED: Final = (
    "(instr({0}, :escaped) AND EXISTS (SELECT 1 FROM json_tree({0}) WHERE :name IN"
    " (key, atom, substr(key, 1, instr(key, '@') - 1), substr(atom, 1, instr(atom, '@') - 1))))"
)
# The black box cuts the name of a trace in flight.
_IDS: Final = (
    "trace_id IN (SELECT trace_id FROM traces"  # noqa: S608  # constants
    f" WHERE capability = :name OR (result = '{INTERRUPTED}' AND capability = :cut)"
    f" OR {_NAMED.format('spans')} OR {_NAMED.format('extras')})"
)
_OF_CAPABILITY: Final = {"logs": f"{_IDS} OR {_NAMED.format('extras')}", "traces": _IDS}


@dataclass(frozen=True, slots=True)
class Selection:
    """What a purge takes: everything, what was recorded before a moment, a capability, or a trace. One of the four.

    Attributes:
        everything: all there is.
        before_us: what was recorded before this, UTC microseconds; a trace is recorded at its end.
        capability: its name, without a version. It takes no lines of the JSON log.
        trace_id: of the trace, with every record that has its id anywhere.
    """

    everything: bool = False
    before_us: int | None = None
    capability: str | None = None
    trace_id: str | None = None

    @property
    def conditions(self) -> dict[str, str]:
        """The condition of each table that loses rows, in the order to delete in: `logs` need the `traces`."""
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
            "name": name,
            "escaped": self.escaped.decode(),
            "cut": name.encode()[:CAPABILITY_BYTES].decode("utf-8", "ignore"),
        }

    @property
    def escaped(self) -> bytes:
        """The capability's name as it stands within a JSON string."""
        return orjson.dumps(self.capability or "")[1:-1]
