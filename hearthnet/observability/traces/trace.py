"""A trace: one request's way through this node, from its start to its record.

A trace ends once. Its spans are then encoded into one bounded record for the recorder, and one "done" line is written
to the JSON log. A span still open is stored with the status `open`. `tracing` has the public calls.

Nearly all traces are ordinary: they end well and in time, their spans are closed, and what they hold can be encoded as
it is. `begin`, `Span.__enter__`, `Span.__exit__` and `_record_whole` are written for those, with few calls in them,
since it is calls that cost. Each leaves the rest to a function that copes with anything (`canonical`, `Span._enter`,
`Span._exit`, `_record`); a property test compares what both record.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import Token
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from time import monotonic_ns, time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
from orjson import Fragment

from hearthnet.constants import MAX_CAPABILITY_CHARS, MAX_TRACE_ROW_BYTES, NO_SLOT, TRACE_LOGGER
from hearthnet.observability.logging import get_logger, is_enabled, log_done
from hearthnet.observability.logs.context_fields import context_fields, fields_of_trace
from hearthnet.observability.logs.messages import INFO, WARNING
from hearthnet.observability.logs.standard_records import done_text
from hearthnet.observability.metrics import telemetry_dropped_total
from hearthnet.observability.records.context import Counted, Scope, current, swap
from hearthnet.observability.records.ids import canonical, id_source, new_trace_id
from hearthnet.observability.records.record import (
    LogValues,
    TraceRecord,
    clean_text,
    encode,
    encode_plain,
    fit,
    is_a,
    is_plain,
    spans_in,
)
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.records.results import CANCELLED, OK, RESULTS, decisive, is_failure, result_of
from hearthnet.observability.redaction.told import Known, Told, calls, told_throughout
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces.span import (
    MAX_SPANS,
    Span,
    describe,
    known_names,
    outer_of,
    outermost_root,
    step_out,
    trace_types,
)

if TYPE_CHECKING:
    from hearthnet.observability.records.blackbox import BlackBox

__all__ = ["Trace", "begin"]

_MAX_HELD: Final = 200  # log records held until the end
# Bytes of spans and extras in a row, besides ids, names and an error of at most 2 KiB.
_ROOM_BYTES: Final = MAX_TRACE_ROW_BYTES - 2_048 - 512
_FINE: Final = (OK, CANCELLED)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_dumps: Final = orjson.dumps
_new: Final = object.__new__  # a class that is called takes twice as long
_log = get_logger(TRACE_LOGGER)


def _weightiest(spans: list[Span], now_ns: int) -> list[Span]:
    """Returns the spans in the order in which they are worth keeping: failed and open ones, then the slowest."""

    def weight(opened: Span) -> tuple[bool, int]:
        # By identity: a program may have set a status whose comparison raises.
        return not opened.closed_ns or opened.status is not OK, (opened.closed_ns or now_ns) - opened.started_ns

    return sorted(spans, key=weight, reverse=True)


class Trace:
    """One request's way through this node.

    Attributes:
        trace_id: a ULID; not unique in a database, one distributed trace may visit a node several times.
        parent_id: the caller's span, if it named one.
        capability: without its version, which is in `version`.
        started_ns: monotonic nanoseconds; has meaning within its run only.
        started_us: UTC microseconds.
        duration_ms: None until it ended.
        result: `ok`, a wire error code, `cancelled`, or `interrupted`; None until it ended.
        error: type and message of the error, or None.
        extras: fields of the whole trace.
        is_random: whether the low 56 bits of its id are known to be random: minted here, or so said its caller.
        tracestate: the caller's, passed on with outgoing calls; not recorded.
        run_id: the run that it belongs to.
        seq: its place in the order of the database; 0 until it is committed.
        token: of the context in which it began.
        is_over: its record and its "done" line are made: log records made in its context from now on are not its own.
    """

    __slots__ = (
        "_box", "_dropped_spans", "_handling", "_held", "_kept", "_number", "_open", "_said", "_slot", "_spans",
        "_told", "capability", "duration_ms", "ended", "error", "extras", "is_over", "is_random", "notable",
        "parent_id", "result", "run_id", "seq", "started_ns", "started_us", "token", "trace_id", "tracestate",
        "version",
    )  # fmt: skip

    trace_id: str
    parent_id: str | None
    capability: str
    version: str | None
    started_ns: int
    started_us: int
    duration_ms: float | None
    result: str | None
    error: str | None
    extras: dict[str, Any]
    is_random: bool
    tracestate: str
    run_id: str
    seq: int
    token: Token[Scope | None] | None
    ended: bool
    is_over: bool
    notable: int
    _number: int
    _dropped_spans: int
    _spans: list[Span] | None
    _open: list[Span]
    _held: list[tuple[LogValues, Counted | None]] | None
    _handling: BaseException | None  # what was being handled when it began
    _told: tuple[str, ...]  # secrets that its errors have told
    _kept: bytes  # its spans once it has ended, in its frame or by themselves
    _box: BlackBox | None
    _slot: int  # in the box; it has one as long as this is above 0

    # As a scope: the current one where it began, outside any span.
    number = closed_ns = 0
    span_id: None = None

    @classmethod
    def from_record(cls, record: TraceRecord) -> Self:
        """Returns the finished trace of a record; its spans are decoded on first use."""
        trace = cls.__new__(cls)
        trace._slot = NO_SLOT
        (
            trace.seq, trace.run_id, trace._number, trace.trace_id, trace.parent_id, trace.capability, trace.version,
            trace.started_us, trace.started_ns, trace.duration_ms, trace.result, trace.error, trace.notable,
            trace._kept, extras,
        ) = record  # fmt: skip
        trace.extras = orjson.loads(extras) if len(extras) > 2 else {}  # "{}"
        trace.ended = trace.is_over = True
        trace._spans = None
        trace.is_random, trace.tracestate = False, ""  # neither is recorded
        trace._dropped_spans = 0
        trace._held = None
        trace._handling = trace.token = None
        return trace

    @property
    def trace(self) -> Self:
        """Itself: a scope knows its trace."""
        return self

    @property
    def outer(self) -> Scope | None:
        """The scope in which it began."""
        return outer_of(self.token)

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
            self._spans = [Span.from_dict(self, item) for item in orjson.loads(self._stored_spans())]
        return self._spans

    @property
    def failed(self) -> bool:
        """Whether it ended with anything but `ok` and `cancelled`."""
        return self.result is not None and is_failure(self.result)

    def _stored_spans(self) -> bytes:
        """Returns the spans as JSON, of a trace that has ended."""
        kept = self._kept
        return kept if kept.startswith(b"[") else spans_in(kept)

    def add_span(self, opened: Span, started_ns: int) -> None:
        """Adds a span that has just opened."""
        if len(self._open) < MAX_SPANS:  # of those that nothing closes only so many are kept
            self._open.append(opened)
        spans = self._spans
        if spans is not None:  # else it has just ended, in another thread
            if len(spans) >= MAX_SPANS:
                self._thin(spans, started_ns)
            spans.append(opened)
        # Read once: another thread may end the trace at any moment.
        if (slot := self._slot) > 0 and (box := self._box) is not None:
            box.open_span(slot, opened.name, started_ns)

    def _thin(self, spans: list[Span], now_ns: int) -> None:
        """Drops half of the spans, and counts them."""
        kept = _weightiest(spans, now_ns)[: MAX_SPANS // 2]
        self._dropped_spans += len(spans) - len(kept)
        spans[:] = sorted(kept, key=attrgetter("started_ns"))

    def _keep_failed(self, closed: Span) -> None:
        """Takes a span back that was dropped while it was open and has failed since."""
        spans = self._spans
        if spans is not None and closed not in spans:
            if len(spans) >= MAX_SPANS:
                self._thin(spans, closed.closed_ns)
            spans.append(closed)
            self._dropped_spans -= 1

    def close_span(self, closed: Span) -> None:
        """Removes a span that has just closed; the newest of those still open becomes the innermost."""
        if self._dropped_spans and closed.status is not OK:
            self._keep_failed(closed)
        still_open, slot = self._open, self._slot
        innermost: Span | None
        try:
            if still_open[-1] is closed:
                del still_open[-1]
            elif closed in still_open:  # one opened later in another task is still open
                still_open.remove(closed)
                return
            innermost = still_open[-1]
        except (IndexError, ValueError):  # none is left; or another thread has just ended the trace
            innermost = None
        if slot > 0 and (box := self._box) is not None:
            if innermost is not None:
                box.open_span(slot, innermost.name, innermost.started_ns)
            else:
                box.close_span(slot)

    def __del__(self) -> None:
        # Garbage-collected before it ended: free its slot in the black box.
        try:
            slot = self._slot
        except AttributeError:  # interrupted while it was made
            return
        if slot > 0 and self._box is not None:
            self._box.end(slot)
            for _, message in self._held or ():
                if message is not None:
                    message.drop_row()

    def fail(self, code: str, message: str | None = None) -> None:
        """Sets the result to `code`; one that is no wire error code is recorded as `internal_error`."""
        self.result = code if is_a(code, str) and code in RESULTS else "internal_error"
        if message is not None or is_failure(self.result):
            said = message if message is not None else code
            with Told() as told:
                self.error = clean_text(said)
            self._said = (said, self.error)
            self.note_told(told)

    def fail_with(self, error: BaseException) -> None:
        """Sets the result of this exception."""
        with Told() as told:
            said = describe(decisive(error))
        self.note_told(told)
        self.fail(result_of(error), said)

    def note_told(self, told: Sequence[str]) -> None:
        """Remembers secrets that a part of the trace has told, for the rest of its record."""
        if told:
            self._told = (*self._told, *told)

    def began_here(self) -> bool:
        """Returns whether this is the context in which it began, not a copy of that one."""
        token = self.token
        if token is None:
            return False
        scope = current.get()
        try:
            current.reset(token)  # the one question that tells a context from its copies
        except (ValueError, RuntimeError):
            return False
        self.token = current.set(self)
        swap(scope)
        return True

    def leave(self) -> bool:
        """Puts the previous scope back; returns whether this is the context in which it began."""
        token = self.token
        if token is None:
            return False
        try:
            current.reset(token)
        except (ValueError, RuntimeError):  # of a context that this one is a copy of
            current.set(outer_of(token))
            return False
        self.token = None
        if (error := sys.exception()) is not None:
            self.fail_on_way(error)
        return True

    def fail_on_way(self, error: BaseException) -> None:
        """Sets the result of an exception that is being handled where it ends, if that was raised within it."""
        if self.result is None and error is not self._handling:
            self.fail_with(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.result is None:
            self.fail_with(error)
        root = outermost_root(self)
        if root is not None:
            root.leave()
        self.end()
        if current.get() is not None:
            step_out()

    def end(self, ended_ns: int = 0) -> None:
        """Ends and records the trace, once, in any context; `detach` calls it where the trace began.

        `ended_ns` is the end on the monotonic clock, if that was not now.
        """
        if self.ended:
            return
        self.ended = True  # before any call: no other thread or signal handler may end it too
        ended_ns = ended_ns or monotonic_ns()
        self.duration_ms = duration_ms = (ended_ns - self.started_ns) / 1e6
        self._handling = None
        recorder = runtime.recorder
        self.run_id = recorder.run_id  # telemetry may have been opened since the trace began
        # First the record, then the slot: killed in between, the box has both, and recovery matches them.
        try:
            is_recorded = self._record_whole(recorder, duration_ms)
        except Exception:  # a name that is no text, an integer over 64 bits  # noqa: BLE001
            is_recorded = self._number in recorder.pending_numbers()  # kept, then raised: a signal handler, say
        if not is_recorded:
            self._record(recorder, ended_ns, duration_ms)
        if (slot := self._slot) > 0 and (box := self._box) is not None:
            self._slot = NO_SLOT
            box.end(slot)
        # Spans refer to this trace: a reference cycle would wait for the garbage collector.
        self._spans = None
        self._open.clear()
        if self._held is not None:
            self._release_held(recorder)
        result = self.result or OK
        level = INFO if result in _FINE else WARNING
        if is_enabled(_log, level) or _log.isEnabledFor(level):  # the latter counts what does not come
            self._log_done(level, result)
        self.is_over = True

    def _record_whole(self, recorder: Recorder, duration_ms: float) -> bool:
        """Records the trace in one go; returns False, and does nothing, if it is none of the usual ones.

        These have ended well and in time, all spans are closed, and all in them can be encoded as it is.
        """
        result, box, spans = self.result, recorder.box, self._spans
        if result is None:
            self.result = result = OK
        is_usual = result is OK and duration_ms < runtime.slow_ms and self.error is None
        if not is_usual or box is None or box is not self._box or spans is None or self._told or self._dropped_spans:
            return False
        trace_ns, stored = self.started_ns, []
        for item in spans:
            started_ns, closed_ns, extras, parent = item._started_ns, item.closed_ns, item.extras, item._parent
            if not closed_ns or item.status is not OK or item.name not in known_names or not is_plain(extras):
                return False
            stored.append({
                "id": item.number.to_bytes(8, "big").hex(),  # as `span_id_of`, in half the time
                "parent": parent.to_bytes(8, "big").hex() if parent else None,
                "name": item.name,
                "offset_ms": (started_ns - trace_ns) / 1e6,
                "duration_ms": (closed_ns - started_ns) / 1e6,
                "status": item.status,
                "extras": extras,
            })  # fmt: skip
        encoded = encode_plain(self.extras) if self.extras != {} else b"{}"
        if encoded is None:
            return False
        self._number = number = recorder.next_number()
        columns = (
            number, self.trace_id, self.parent_id, self.capability, self.version, self.started_us, trace_ns,
            duration_ms, result, self.error, 0,
        )  # fmt: skip
        frame = recorder.record_whole(box, columns, stored, Fragment(encoded), len(encoded))
        if frame is None:
            return False
        self._kept = frame
        return True

    def _record(self, recorder: Recorder, ended_ns: int, duration_ms: float) -> None:
        """Records any trace."""
        result = self.result
        if type(result) is not str:
            result = self._decided()
        self.notable = 1 if duration_ms >= runtime.slow_ms or result not in _FINE else 0
        if self._box is not None and (self.trace_id, self.started_ns) in self._box.interrupted:
            return  # its run ended before it, and has recorded it
        try:
            calls_before = calls[0]
            spans, extras = self._encoded(ended_ns)
            if self._told or calls[0] != calls_before:
                spans, extras = self._without_told(ended_ns)
            self._kept = spans
            if getattr(self, "_said", (None, None))[1] is not self.error:  # the program has set it
                self.error = None if self.error is None else clean_text(self.error)
            values = (
                self.trace_id, self.parent_id, self.capability, self.version, self.started_us, self.started_ns,
                duration_ms, result, self.error, self.notable, spans, extras,
            )  # fmt: skip
            self._number = recorder.record_trace(values, self._number)
        except Exception:  # the program set something unforeseen  # noqa: BLE001
            telemetry_dropped_total.labels(reason="unencodable").inc()

    def _decided(self) -> str:
        """Returns the result where none is set yet, or something that is no text."""
        if self.result is not None:
            self.fail(self.result)
        self.result = result = self.result or OK
        return result

    def _without_told(self, ended_ns: int) -> tuple[bytes, bytes]:
        """Returns the same without the secrets that one part of the trace has told, nowhere else."""
        encoded, told = told_throughout(lambda: self._encoded(ended_ns), self._told)
        with Known(told):
            self.capability = clean_text(self.capability, MAX_CAPABILITY_CHARS)
            if self.error is not None:
                said, shown = getattr(self, "_said", (None, None))
                self.error = clean_text(said if shown is self.error else self.error)
        return encoded

    def _encoded(self, ended_ns: int) -> tuple[bytes, bytes]:
        """Returns spans and extras as JSON that fits a row."""
        spans = self._spans_in_json(self._spans, ended_ns) if self._spans else b"[]"
        extras = encode(self.extras) if self.extras != {} else b"{}"
        if len(spans) + len(extras) > _ROOM_BYTES or self._dropped_spans:
            spans, extras = self._cut(ended_ns, extras)
        return spans, extras

    def _spans_in_json(self, spans: list[Span], ended_ns: int) -> bytes:
        try:
            return b"%b" % _dumps([opened.as_dict(ended_ns) for opened in spans])
        except Exception:  # a name that is no text, an integer over 64 bits  # noqa: BLE001
            return b"%b" % _dumps([opened.as_safe_dict(ended_ns) for opened in spans])

    def _cut(self, ended_ns: int, extras: bytes) -> tuple[bytes, bytes]:
        """Returns spans and extras that fit a row; `extras.truncated` counts the spans that did not.

        Failed spans are kept first, then the slowest.
        """
        extras = fit(extras, _ROOM_BYTES // 4)
        room = _ROOM_BYTES - len(extras) - len(',"truncated":1000000')
        spans = self._spans or []
        kept: list[tuple[int, bytes]] = []
        for opened in _weightiest(spans, ended_ns):
            encoded = orjson.dumps(opened.as_safe_dict(ended_ns))
            if len(encoded) < room:
                room -= len(encoded) + 1
                kept.append((opened.started_ns, encoded))
        missing = len(spans) - len(kept) + self._dropped_spans
        if missing:
            extras = orjson.dumps({**orjson.loads(extras), "truncated": missing})
        return b"[" + b",".join(encoded for _, encoded in sorted(kept)) + b"]", extras

    def hold(self, values: LogValues, message: Counted | None = None) -> bool:
        """Keeps a log record until the end, to store it if the trace is notable; returns False if it cannot.

        If it is not stored, it is counted as dropped of `message`.
        """
        if self.ended:
            return False
        if self._held is None:
            self._held = []
        if len(self._held) >= _MAX_HELD:
            return False
        self._held.append((values, message))
        return True

    def _release_held(self, recorder: Recorder) -> None:
        held, self._held = self._held, None
        for values, message in held or ():
            if self.notable:
                recorder.record_log(values)
            elif message is not None:
                message.drop_row()

    def _log_done(self, level: int, result: str) -> None:
        fields: dict[str, Any] = {"capability": self.capability, "result": result, "ms": self.duration_ms}
        if self.error is not None:
            fields["error"] = self.error
        if not log_done(level, self.trace_id, fields):
            outside = swap(self)
            try:
                _log.log(level, done_text(fields), extra=fields)
            finally:
                swap(outside)

    def as_dict(self) -> dict[str, Any]:
        """Returns the trace with the names and the order of its columns, spans unfolded."""
        is_whole = self._spans is not None
        spans = [item.as_dict() for item in self.spans] if is_whole else orjson.loads(self._stored_spans())
        return {
            "seq": self.seq,
            "run_id": self.run_id,
            "number": self._number,
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
            "spans": spans,
            "extras": self.extras,
        }

    def _repr_html_(self) -> str:
        """Returns it as a picture, for notebooks."""
        from hearthnet.observability.reports.picture import picture  # late: no other program needs it

        return picture(self)

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id} {self.capability} {self.result or 'running'}>"


def begin(name: str, version: str | None, encoded: bytes, trace_id: object, parent_id: str | None) -> Trace:
    """Returns a trace that begins now. What makes it current sets its token.

    Args:
        name: of its capability, clean.
        version: of its capability, clean.
        encoded: the name, in bytes.
        trace_id: the caller's id; anything else than a ULID is replaced.
        parent_id: the caller's span.
    """
    trace = _new(Trace)
    trace._slot = NO_SLOT
    now_ns = time_ns()
    given_id = None if trace_id is None else canonical(trace_id)
    trace.is_random = given_id is None  # an id that is no ULID is replaced, never recorded
    if given_id is None:
        began_ns, ends_ns, time = id_source.moment
        try:
            given_id = time + id_source.tails.take() if began_ns <= now_ns < ends_ns else new_trace_id(now_ns)
        except StopIteration:
            given_id = new_trace_id(now_ns)
    trace.trace_id = given_id
    trace.parent_id = None if parent_id is None else clean_text(parent_id, MAX_CAPABILITY_CHARS)
    trace.capability = name
    trace.version = version
    trace.started_us = started_us = now_ns // 1_000
    trace.started_ns = started_ns = monotonic_ns()
    recorder = runtime.recorder
    trace.run_id = recorder.run_id
    trace.duration_ms = trace.result = trace.error = trace.token = trace._held = None
    trace.seq = trace._number = trace.notable = trace._dropped_spans = 0
    trace.ended = trace.is_over = False
    trace.tracestate = ""
    trace.extras = {} if context_fields.get() is None else fields_of_trace()
    trace._spans, trace._open = [], []
    trace._kept = b"[]"
    trace._told = ()
    trace._handling = sys.exception()  # an error that is already being handled is not the trace's
    trace._box = box = recorder.box
    if box is not None:
        slot = NO_SLOT
        try:
            slot = box.free.pop()
            box.pack_entry(box.table, slot, given_id.encode(), encoded, started_us, started_ns, 1)
        except (IndexError, TypeError, ValueError):  # none is free, or the box moves
            slot = box.begin(given_id, name, started_us, started_ns, slot)
        trace._slot = slot
    return trace


trace_types.add(Trace)
