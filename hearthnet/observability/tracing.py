"""Traces and spans: what a request did, where its time went, and how it ended.

A trace is made by `new_trace`, current in its context until `detach`, and then recorded once, as one record with its
spans inside. Spans find their parent through the context, so nested and parallel ones are right without being told.
Nothing here raises into the program that is traced, waits, or touches a file.

    trace = new_trace("llm.chat")          with new_trace("llm.chat"):         (ends by itself)
    try:                                       with span("generate", model="tiny") as generate:
        with span("generate"):                     …
            …                                      generate.extras["tokens"] = 128
    finally:
        detach()

A trace ends once: then its spans are encoded into one bounded record, which goes to the recorder, and one "done" line
goes to the JSON log. A span still open at that moment is stored with the status `open`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic_ns, time_ns
from types import TracebackType
from typing import Any, Final, Self, cast

import orjson

from hearthnet.constants import MAX_CAPABILITY_CHARS, MAX_TRACE_ROW_BYTES, TRACE_RING_BUFFER
from hearthnet.observability import recorder as recording
from hearthnet.observability.blackbox import NOWHERE
from hearthnet.observability.context import current, swap
from hearthnet.observability.ids import is_trace_id, new_trace_id
from hearthnet.observability.logging import TRACE_LOGGER, get_logger
from hearthnet.observability.metrics import telemetry_dropped_total
from hearthnet.observability.record import TraceRecord, encode, fit, safe_text
from hearthnet.observability.results import OK, RESULTS, is_failure, result_of
from hearthnet.observability.spans import Root, Span, describe

__all__ = [
    "Span",
    "Trace",
    "attach",
    "current_trace",
    "detach",
    "get_recent",
    "is_failure",
    "new_trace",
    "read_from",
    "result_of",
    "set_slow_ms",
    "span",
]

# About 8 KiB hold sixty spans; more are kept only so that `extras.truncated` can tell how many there were.
_MAX_SPANS: Final = 1_000
# What a row may hold in spans and extras, beside ids, names and an error of at most 2 KiB.
_ROOM_BYTES: Final = MAX_TRACE_ROW_BYTES - 2_048 - 512
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

span = Span
_log = get_logger(TRACE_LOGGER)
_slow_ms: float = 5_000.0
unencodable_total = telemetry_dropped_total.labels(reason="unencodable")


def set_slow_ms(limit_ms: float) -> None:
    """Makes traces that last `limit_ms` or longer notable."""
    global _slow_ms
    _slow_ms = limit_ms


class Trace:
    """One request's way through this node.

    Attributes:
        trace_id: a ULID; not unique in a database, one distributed trace may visit a node several times.
        parent_id: the span of the caller that this trace belongs under, if it named one.
        capability: without its version, which is in `version`.
        started_ns: monotonic nanoseconds; has meaning within its run only.
        started_us: UTC microseconds.
        duration_ms: None until it ended.
        result: `ok`, a wire error code, `cancelled`, or `interrupted`; None until it ended.
        error: type and message of what went wrong, or None.
        extras: fields of the whole trace.
        run_id: the life of the process that it ran in.
        seq: its number in the database; None until it ended.
    """

    __slots__ = (
        "_box", "_handling", "_open", "_place", "_spans", "_spans_json", "_unseen", "capability", "duration_ms",
        "ended", "error", "extras", "notable", "parent_id", "result", "run_id", "seq", "started_ns", "started_us",
        "trace_id", "version",
    )  # fmt: skip

    def __init__(self, capability: str, trace_id: str | None = None, parent_id: str | None = None) -> None:
        self._place = NOWHERE
        now_ns = time_ns()
        # An id that is no ULID is replaced, never recorded.
        self.trace_id = trace_id if trace_id is not None and is_trace_id(trace_id) else new_trace_id(now_ns)
        self.parent_id = None if parent_id is None else safe_text(parent_id, MAX_CAPABILITY_CHARS)
        self.capability = capability
        self.version: str | None = None
        self.started_us = now_ns // 1_000
        self.started_ns = monotonic_ns()
        self.duration_ms: float | None = None
        self.result: str | None = None
        self.error: str | None = None
        self.extras: dict[str, Any] = {}
        recorder = recording.active
        self.run_id = recorder.run_id
        self.seq: int | None = None
        self.notable = 0
        self.ended = False
        self._unseen = 0
        self._spans: list[Span] | None = []
        self._spans_json = b"[]"
        self._open: list[Span] = []
        # An error that is being handled already when the trace begins is not the trace's.
        self._handling = sys.exc_info()[1]
        self._box = box = recorder.box
        if box is not None:
            self._place = box.begin(self.trace_id, capability, self.started_us, self.started_ns)

    @classmethod
    def from_record(cls, record: TraceRecord) -> Self:
        """Returns the finished trace that a record tells of; its spans are decoded when first asked for."""
        trace = cls.__new__(cls)
        trace._place = NOWHERE
        (
            trace.seq, trace.run_id, trace.trace_id, trace.parent_id, trace.capability, trace.version,
            trace.started_us, trace.started_ns, trace.duration_ms, trace.result, trace.error, trace.notable,
            trace._spans_json, extras,
        ) = record  # fmt: skip
        trace.extras = orjson.loads(extras) if len(extras) > 2 else {}  # "{}"
        trace.ended = True
        trace._spans = None
        trace._unseen = 0
        trace._handling = None
        return trace

    @property
    def started_at(self) -> float:
        """Monotonic seconds; has meaning within the trace's own run only."""
        return self.started_ns / 1e9

    @property
    def started_at_utc(self) -> datetime:
        """When it started, for people."""
        return _EPOCH + timedelta(microseconds=self.started_us)

    @property
    def spans(self) -> list[Span]:
        """The spans in the order of their start."""
        if self._spans is None:
            self._spans = [Span.from_dict(self, item) for item in orjson.loads(self._spans_json)]
        return self._spans

    @property
    def failed(self) -> bool:
        """Whether it ended with anything but `ok` and `cancelled`."""
        return self.result is not None and is_failure(self.result)

    def add_span(self, opened: Span, started_ns: int) -> None:
        """Takes a span that opens now."""
        self._open.append(opened)
        if self._place >= 0 and self._box is not None:
            self._box.open_span(self._place, opened.name, started_ns)
        spans = self._spans
        if spans is not None and len(spans) < _MAX_SPANS:
            spans.append(opened)
        else:
            self._unseen += 1

    def close_span(self, closed: Span) -> None:
        """Lets go of a span that has just closed: the newest of those still open is now the innermost."""
        still_open = self._open
        if still_open and still_open[-1] is closed:
            del still_open[-1]
        elif closed in still_open:  # beside it, in another task, one opened later and is open yet
            still_open.remove(closed)
            return
        if self._place >= 0 and self._box is not None:
            if still_open:
                innermost = still_open[-1]
                self._box.open_span(self._place, innermost.name, innermost.started_ns)
            else:
                self._box.close_span(self._place)

    def _leave_box(self) -> None:
        """Takes the trace out of the table of those in flight."""
        place, self._place = self._place, NOWHERE
        if place >= 0 and self._box is not None:
            self._box.end(place)

    def __del__(self) -> None:
        # Nobody can end it any more: it is not in flight, and its place must not be lost.
        if self._place >= 0:
            self._leave_box()

    def fail(self, code: str, message: str | None = None) -> None:
        """Sets the result to `code`; one that is no wire error code is recorded as `internal_error`."""
        self.result = code if code in RESULTS else "internal_error"
        if message is not None or is_failure(code):
            self.error = safe_text(message if message is not None else code)

    def fail_with(self, error: BaseException) -> None:
        """Sets the result that this exception stands for."""
        self.fail(result_of(error), describe(error))

    def take_error_in_flight(self) -> None:
        """Sets the result from an exception on its way out, if nothing else did and it is this trace's own."""
        error = sys.exc_info()[1]
        if error is not None and self.result is None and error is not self._handling:
            self.fail_with(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.result is None:
            self.fail_with(error)
        root = Root.innermost()
        if root is not None and root.trace is self:
            root.leave()
        self.end()

    def end(self) -> None:
        """Ends and records the trace, once, from whatever context; `detach` calls it where the trace began."""
        if self.ended:
            return
        ended_ns = monotonic_ns()
        self.ended = True
        self.duration_ms = (ended_ns - self.started_ns) / 1e6
        if self.result is None:
            self.result = OK
        self.notable = 1 if self.duration_ms >= _slow_ms or is_failure(self.result) else 0
        self._handling = None
        recorder = recording.active
        self.run_id = recorder.run_id  # telemetry may have been opened since the trace began
        self.seq = recorder.next_seq()
        # First the finished trace, then the mark: killed in between, the box has both, and recovery knows them as one.
        try:
            recorder.offer_trace(self._record(ended_ns))
        except Exception:  # the program put something there that no check foresees  # noqa: BLE001
            unencodable_total.inc()
        self._leave_box()
        self._let_go_of_spans()
        self._log_done()

    def _let_go_of_spans(self) -> None:
        """Keeps the spans as recorded alone: they refer to this trace, and a circle would wait for the collector."""
        self._spans = None
        self._open = []

    def _record(self, ended_ns: int) -> TraceRecord:
        spans = orjson.dumps([opened.as_dict(ended_ns) for opened in self._spans or ()])
        extras = encode(self.extras)
        if len(spans) + len(extras) > _ROOM_BYTES or self._unseen:
            spans, extras = self._cut(ended_ns, extras)
        self._spans_json = spans
        return TraceRecord(
            self.seq or 0, self.run_id, self.trace_id, self.parent_id, self.capability, self.version,
            self.started_us, self.started_ns, self.duration_ms or 0.0, self.result or OK, self.error, self.notable,
            spans, extras,
        )  # fmt: skip

    def _cut(self, ended_ns: int, extras: bytes) -> tuple[bytes, bytes]:
        """Returns spans and extras that fit a row; how many spans did not fit stands in `extras.truncated`."""
        extras = fit(extras, _ROOM_BYTES // 4)
        room = _ROOM_BYTES - len(extras) - len(',"truncated":1000000')
        kept: list[bytes] = []
        for opened in self._spans or ():
            encoded = orjson.dumps(opened.as_dict(ended_ns))
            if len(encoded) < room:
                room -= len(encoded) + 1
                kept.append(encoded)
        missing = len(self._spans or ()) - len(kept) + self._unseen
        if missing:
            extras = orjson.dumps({**orjson.loads(extras), "truncated": missing})
        return b"[" + b",".join(kept) + b"]", extras

    def _log_done(self) -> None:
        fields: dict[str, Any] = {
            "capability": self.capability,
            "result": self.result,
            "ms": self.duration_ms,
        }
        if self.error is not None:
            fields["error"] = self.error
        outside = swap(Root(self, None, started=False))
        try:
            if self.result is not None and is_failure(self.result):
                _log.warning("done", extra=fields)
            else:
                _log.info("done", extra=fields)
        finally:
            swap(outside)

    def as_dict(self) -> dict[str, Any]:
        """Returns the trace with the names and the order of its columns, spans unfolded."""
        return {
            "seq": self.seq,
            "run_id": self.run_id,
            "trace_id": self.trace_id,
            "parent_id": self.parent_id,
            "capability": self.capability,
            "version": self.version,
            "started_us": self.started_us,
            "started_mono_ns": self.started_ns,
            "duration_ms": self.duration_ms,
            "result": self.result,
            "error": self.error,
            "notable": self.notable,
            "spans": [item.as_dict() for item in self.spans]
            if self._spans is not None
            else orjson.loads(self._spans_json),
            "extras": self.extras,
        }

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id} {self.capability} {self.result or 'running'}>"


def new_trace(capability: str, *, trace_id: str | None = None, parent_id: str | None = None) -> Trace:
    """Starts a trace and makes it current; `detach` ends it.

    Args:
        capability: its name; a version behind `@` becomes the trace's version.
        trace_id: the caller's id. One that is no ULID is replaced by a fresh one.
        parent_id: the caller's span.

    Returns:
        The trace. Used with `with`, it detaches by itself and takes its result from an exception that leaves.
    """
    name, _, version = safe_text(capability, 2 * MAX_CAPABILITY_CHARS).partition("@")
    trace = Trace(safe_text(name, MAX_CAPABILITY_CHARS), trace_id, parent_id)
    if version:
        trace.version = safe_text(version, MAX_CAPABILITY_CHARS)
    Root.enter(trace, started=True)
    return trace


def attach(trace: Trace) -> None:
    """Makes an existing trace current in this task; neither starts nor ends it. `detach` takes it back."""
    Root.enter(trace, started=False)


def detach() -> None:
    """Ends and records the current trace if this context started it; puts the previous one back.

    On a trace that was merely attached, or came with a copied context, it only restores. With none it does nothing.
    An exception on its way out of the `try … finally` around this call sets the result, if nothing else did.
    """
    root = Root.innermost()
    if root is not None and root.leave():
        root.trace.take_error_in_flight()
        root.trace.end()


def current_trace() -> Trace | None:
    """Returns the trace attached to the current task, or None; one that has ended is nobody's current trace."""
    scope = current.get()
    if scope is None:
        return None
    trace = cast("Trace", scope.trace)  # tracing sets only its own scopes
    return None if trace.ended else trace


def _recent_in_memory(n: int) -> list[TraceRecord]:
    return recording.active.traces.snapshot()[-n:][::-1]


_recent: Callable[[int], list[TraceRecord]] = _recent_in_memory


def get_recent(n: int = 100) -> list[Trace]:
    """Returns the last `n` completed traces, newest first, what is not committed yet included."""
    if n < 1:
        return []
    return [Trace.from_record(record) for record in _recent(min(n, TRACE_RING_BUFFER))]


def read_from(source: Callable[[int], list[TraceRecord]] | None) -> None:
    """Makes `get_recent` read from a store; None: from memory."""
    global _recent
    _recent = source or _recent_in_memory


# A forked child has no store: its parent's connection must not be used, nor its parent's traces be taken for its own.
os.register_at_fork(after_in_child=lambda: read_from(None))
