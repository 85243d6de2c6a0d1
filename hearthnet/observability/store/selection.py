"""Which records a purge takes: one rule for rows, for what black boxes hold, and for lines of the JSON log.

A record belongs to a capability when it is a trace of it, names it (as a whole value or key, with or without a version:
a caller's trace has a span that does), or stands under the id of such a trace.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from hearthnet.forensics.box import CAPABILITY_BYTES
from hearthnet.observability.record import LogRecord, TraceRecord
from hearthnet.observability.results import INTERRUPTED
from hearthnet.observability.store.line import line_of, time_of

__all__ = ["Selection"]

_TRACE_ID: Final = re.compile(rb'"trace_id":"([0-9A-Z]{26})"')


class Selection:
    """What is to go: everything, what was recorded before a moment, a capability, or a trace. One of the four.

    Args:
        everything: all there is.
        before_us: what was recorded before this, UTC microseconds; a trace is recorded at its end.
        capability: its name, without a version.
        trace_id: of the trace.

    Attributes:
        ids: of the traces that go, as far as they are known; `learn_trace` and `learn_line` add to it.
    """

    def __init__(
        self,
        *,
        everything: bool = False,
        before_us: int | None = None,
        capability: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        self.everything = everything
        self.before_us = before_us
        self.capability = capability
        self.ids = set() if trace_id is None else {trace_id}
        self._word = capability or trace_id or ""
        # As it stands within a JSON string.
        self._needle = orjson.dumps(self._word)[1:-1]
        self._cut = self._word.encode()[:CAPABILITY_BYTES].decode("utf-8", "ignore")

    @property
    def knows_all(self) -> bool:
        """Whether a record alone tells that it goes; otherwise it may go for what other records tell."""
        return self.everything or self.before_us is not None

    def learn_trace(self, record: TraceRecord) -> None:
        """Notes the id of a trace that belongs to the capability."""
        if self.capability is not None and self._belongs(record):
            self.ids.add(record.trace_id)

    def learn_line(self, raw: bytes) -> None:
        """Notes the id that a line of the capability stands under."""
        if self.capability is None or self._needle not in raw:
            return
        line = line_of(raw)
        if line is not None and isinstance(line.get("trace_id"), str) and self._is_word(line.get("capability")):
            self.ids.add(line["trace_id"])

    def takes_trace(self, record: TraceRecord) -> bool:
        """Tells whether a trace goes."""
        if self.before_us is not None:
            return record.started_us + record.duration_ms * 1_000 < self.before_us
        return self.everything or record.trace_id in self.ids or self._belongs(record)

    def takes_log(self, record: LogRecord) -> bool:
        """Tells whether a log record goes."""
        if self.before_us is not None:
            return record.ts_us < self.before_us
        return self.everything or record.trace_id in self.ids or self._is_named_in(record.extras)

    def takes_line(self, raw: bytes, took_last: bool) -> bool:
        """Tells whether a line of the JSON log goes.

        Args:
            raw: the line.
            took_last: whether the line before it goes; a torn line without a time goes with it.
        """
        if self.everything:
            return True
        line = line_of(raw)
        if self.before_us is not None:
            ts_us = None if line is None else time_of(line)
            return took_last if ts_us is None else ts_us < self.before_us
        if line is None:
            return self._needle in raw or any(found.decode() in self.ids for found in _TRACE_ID.findall(raw))
        return line.get("trace_id") in self.ids or (self._needle in raw and self._holds(line))

    def _belongs(self, record: TraceRecord) -> bool:
        is_cut = record.result == INTERRUPTED and self.capability is not None and record.capability == self._cut
        named = self._is_named_in(record.spans) or self._is_named_in(record.extras)
        return bool(self._word) and (is_cut or record.capability == self._word or named)

    def _is_named_in(self, encoded: bytes) -> bool:
        return bool(self._word) and self._needle in encoded and self._holds(orjson.loads(encoded))

    def _holds(self, value: Any) -> bool:
        if isinstance(value, dict):
            return any(self._is_word(key) or self._holds(item) for key, item in value.items())
        if isinstance(value, list):
            return any(self._holds(item) for item in value)
        return self._is_word(value)

    def _is_word(self, value: Any) -> bool:
        return isinstance(value, str) and (value == self._word or value.startswith(f"{self._word}@"))
