"""A trace: one request's way through this node, from its start to its record.

A trace ends once. Its spans are then encoded into one bounded record for the recorder, and one "done" line is written
to the JSON log. A span still open is stored with the status `open`. `tracing` has the public calls.

Nearly all traces are ordinary: they end well and in time, their spans are closed, and what they hold can be encoded as
it is. `new_trace`, `Span.__enter__`, `Span.__exit__`, `detach`, `end` and `_record_whole` are written for those, with
few calls in them, since it is calls that cost. Each leaves the rest to a function that copes with anything
(`canonical`, `Span._enter`, `Span._exit`, `leave`, `_record`); a property test compares what both record.

Of the 58,000 instructions of a trace of one span with two extras, 14,000 begin it, 15,000 are the span, and 28,000 its
end: 4,500 orjson, 3,100 whether the extras need cleaning, 2,500 the span's dictionary, 2,000 the checksum, 2,400 the
frame around it, 1,100 the ring, 1,800 the tuples, 2,000 the context variable. A call of a Python function is 400, an
attribute 65, a method of a name that is imported 400 unless it is bound once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import Token
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from struct import Struct
from time import monotonic_ns
from types import TracebackType
from zlib import crc32

import orjson

from hearthnet.constants import MAX_CAPABILITY_CHARS, TRACE_LOGGER
from hearthnet.forensics.frames import FRAME_FIELDS, FRAME_MAGIC
from hearthnet.forensics.tables import PAYLOAD_VERSION
from hearthnet.observability.logging import get_logger, is_enabled, log_done
from hearthnet.observability.logs.messages import INFO, WARNING
from hearthnet.observability.logs.standard_records import done_text
from hearthnet.observability.metrics import telemetry_dropped_total
from hearthnet.observability.records.context import current, swap
from hearthnet.observability.records.record import (
    TRACE_COLUMNS,
    KeptTrace,
    LogValues,
    TraceFields,
    clean_text,
    fields_of,
    is_plain,
)
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.records.results import CANCELLED, OK, decisive, is_failure, result_of
from hearthnet.observability.redaction.told import Known, Told, calls, told_throughout
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces.encoding import ROOM_BYTES, encoded, weightiest
from hearthnet.observability.traces.misuse import known_code
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Self

    from hearthnet.observability.records.blackbox import BlackBox, Slot
    from hearthnet.observability.records.context import Counted, Scope

__all__ = ["NOT_OURS", "Trace"]

_MAX_HELD: Final = 200  # log records held until the end
_FINE: Final = (OK, CANCELLED)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SEQ, _RUN_ID, _NUMBER, _NOTABLE, _SPANS = map(TRACE_COLUMNS.index, ("seq", "run_id", "number", "notable", "spans"))
_OURS: Final = True, ""  # the origin of a trace whose id was minted here
NOT_OURS: Final = False, ""
_dumps: Final = orjson.dumps
_pack_fields: Final = FRAME_FIELDS.pack
_pack_check: Final = Struct("<4sI").pack  # as `frames.FRAME` begins
_log = get_logger(TRACE_LOGGER)
_ours = get_logger("hearthnet")  # above it


class _Held(list["tuple[LogValues, Counted | None]"]):
    """Log records that wait for the end of their trace. They are counted as dropped where that never comes."""

    def __del__(self) -> None:
        for _, message in self:
            if message is not None:
                message.drop_row()


class _Odd:
    """What few traces have: such a trace is recorded in parts.

    Attributes:
        told: secrets that its errors have told.
        dropped: how many spans it lacks.
        said: the message of its error as it was given, and as it is shown.
    """

    __slots__ = ("dropped", "said", "told")

    def __init__(self) -> None:
        self.told: tuple[str, ...] = ()
        self.dropped = 0
        self.said: tuple[object, str | None] = (None, None)


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
        token: of the context in which it began.
        is_over: its record and its "done" line are made: log records made in its context from now on are not its own.
    """

    __slots__ = (
        "_decoded", "_handling", "_held", "_odd", "_origin", "_recorded", "_slot", "_spans", "_top", "capability",
        "duration_ms", "ended", "error", "extras", "is_over", "parent_id", "result", "started_ns", "started_us",
        "token", "trace_id", "version",
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
    token: Token[Scope | None] | None
    ended: bool
    is_over: bool
    _odd: _Odd | None
    _origin: tuple[bool, str]  # of an id that a caller gave: is_random, tracestate
    _spans: list[Span] | None  # None once it has ended
    _decoded: list[Span]  # of its record, once they were asked for
    _top: Span | None  # of the spans that are open the newest; each has the one below
    _held: _Held | None
    _handling: BaseException | None  # what was being handled when it began
    _recorded: KeptTrace | None  # its record once it has ended
    _slot: Slot | None  # in the black box, until it ends

    # As a scope: the current one where it began, outside any span.
    closed_ns = 0
    span_id: None = None

    @classmethod
    def from_record(cls, record: TraceFields) -> Self:
        """Returns the finished trace of a record, a `TraceRecord` say; its spans are decoded on first use."""
        trace = cls.__new__(cls)
        trace._slot = trace._top = None
        trace._recorded = (*record,)  # a plain tuple
        (
            _, _, _, trace.trace_id, trace.parent_id, trace.capability, trace.version, trace.started_us,
            trace.started_ns, trace.duration_ms, trace.result, trace.error, _, _, extras,
        ) = record  # fmt: skip
        trace.extras = orjson.loads(extras) if len(extras) > 2 else {}  # "{}"
        trace.ended = trace.is_over = True
        trace._spans = None
        trace._origin = NOT_OURS  # neither is recorded
        trace._odd = None
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
        if (spans := self._spans) is not None:  # it has not ended
            return spans
        decoded = getattr(self, "_decoded", None)
        if decoded is None:
            decoded = [Span.from_dict(self, item) for item in orjson.loads(self._stored_spans())]
            if self.is_over:
                self._decoded = decoded
        return decoded

    @property
    def is_random(self) -> bool:
        """Whether the low 56 bits of its id are known to be random: minted here, or so said its caller."""
        return getattr(self, "_origin", _OURS)[0]

    @is_random.setter
    def is_random(self, is_random: bool) -> None:
        self._origin = is_random, self.tracestate

    @property
    def tracestate(self) -> str:
        """The caller's, passed on with outgoing calls; not recorded."""
        return getattr(self, "_origin", _OURS)[1]

    @tracestate.setter
    def tracestate(self, tracestate: str) -> None:
        self._origin = self.is_random, tracestate

    @property
    def run_id(self) -> str:
        """The run that it belongs to: where it was recorded, until then the present one."""
        return runtime.recorder.run_id if self._recorded is None else self._recorded[_RUN_ID]  # type: ignore[return-value]

    @property
    def seq(self) -> int:
        """Its place in the order of the database; 0 until it is committed."""
        return 0 if self._recorded is None else self._recorded[_SEQ]  # type: ignore[return-value]

    @property
    def notable(self) -> int:
        """1 of a trace that failed or was slow, if it has ended; else 0."""
        return 0 if self._recorded is None else self._recorded[_NOTABLE]  # type: ignore[return-value]

    @property
    def failed(self) -> bool:
        """Whether it ended with anything but `ok` and `cancelled`."""
        return self.result is not None and is_failure(self.result)

    def _stored_spans(self) -> bytes:
        """Returns the spans as JSON, of a trace that has ended."""
        return b"[]" if self._recorded is None else fields_of(self._recorded)[_SPANS]  # type: ignore[return-value]

    def add_span(self, opened: Span, started_ns: int) -> None:
        """Adds a span that has just opened."""
        spans = self._spans
        if spans is not None:  # else it has just ended, in another thread
            if len(spans) >= MAX_SPANS:
                self._thin(spans, started_ns)
            opened.below = self._top
            self._top = opened
            spans.append(opened)
        # Read once: another thread may end the trace at any moment.
        if (slot := self._slot) is not None:
            slot.box.open_span(slot, opened.name, started_ns)

    def _thin(self, spans: list[Span], now_ns: int) -> None:
        """Drops half of the spans, and counts them."""
        kept = weightiest(spans, now_ns)[: MAX_SPANS // 2]
        self._oddities().dropped += len(spans) - len(kept)
        spans[:] = sorted(kept, key=attrgetter("started_ns"))
        self._top = None  # of those that nothing closes no more are kept
        for opened in spans:
            if not opened.closed_ns:
                opened.below, self._top = self._top, opened

    def _keep_failed(self, closed: Span) -> None:
        """Takes a span back that was dropped while it was open and has failed since."""
        spans = self._spans
        if spans is not None and closed not in spans:
            if len(spans) >= MAX_SPANS:
                self._thin(spans, closed.closed_ns)
            spans.append(closed)
            self._oddities().dropped -= 1

    def close_span(self, closed: Span) -> None:
        """Removes a span that has just closed; the newest of those still open becomes the innermost."""
        if self._odd is not None and self._odd.dropped and closed.status is not OK:
            self._keep_failed(closed)
        innermost, top = closed.below, self._top
        if top is closed:
            while innermost is not None and innermost.closed_ns:  # another thread has just closed it
                innermost = innermost.below
            self._top = innermost
        elif self._is_unlinked(closed):  # one opened later in another task is still open
            return
        else:  # nothing is known of it any more
            innermost = top
        if (slot := self._slot) is not None:
            if innermost is not None:
                slot.box.open_span(slot, innermost._shown_name(), innermost.started_ns)
            else:
                slot.box.close_span(slot)

    def _is_unlinked(self, closed: Span) -> bool:
        """Takes a span out of those that are open; returns False if it is not below another one of them."""
        above = self._top
        while above is not None:
            if above.below is closed:
                above.below = closed.below
                return True
            above = above.below
        return False

    def fail(self, code: str, message: str | None = None) -> None:
        """Sets the result to `code`; one that no result has is logged, once, and recorded as `internal_error`."""
        self.result = known_code(code)
        if message is not None or is_failure(self.result):
            said = message if message is not None else code
            with Told() as told:
                self.error = clean_text(said)
            self._oddities().said = said, self.error
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
            odd = self._oddities()
            odd.told = (*odd.told, *told)

    def _oddities(self) -> _Odd:
        if self._odd is None:
            self._odd = _Odd()
        return self._odd

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
        recorder, slot, spans, level = runtime.recorder, self._slot, self._spans, INFO
        number: int | None = 0
        self.duration_ms = duration_ms = (ended_ns - self.started_ns) / 1e6
        # Spans refer to this trace, and errors to frames: such a cycle would wait for the garbage collector.
        self._spans = self._top = self._handling = None
        # First the record, then the slot: killed in between, the box has both, and recovery matches them.
        if (
            slot is not None and (box := slot.box) is recorder.box and spans is not None
            and self._odd is None and self.error is None and duration_ms < runtime.slow_ms
        ):  # fmt: skip
            number = self._record_whole(recorder, box, spans, duration_ms)
        if number is not None:
            self._record(recorder, spans or [], ended_ns, number)
            level = INFO if self.result in _FINE else WARNING
        if slot is not None:
            self._slot = None
            try:
                slot.box.table[slot.mark_at] = 0
                slot.box.free.append(slot)
            except (OSError, ValueError):  # the box moves
                slot.box.end(slot)
        if self._held is not None:
            self._release_held(recorder)
        if level >= runtime.level or level >= (_log.level or _ours.level):
            self._log_done(level, self.result or OK)
        self.is_over = True

    def _record_whole(self, recorder: Recorder, box: BlackBox, spans: list[Span], duration_ms: float) -> int | None:
        """Records the trace in one go if it is one of the usual ones; returns None then.

        These have ended well and in time, all spans are closed, and all in them can be encoded as it is. Of others it
        returns the number that they have got already, or 0.
        """
        extras, trace_ns, number = self.extras, self.started_ns, 0
        self.result = result = OK if self.result is None else self.result
        try:
            extras = extras.copy() if extras else extras  # they stay as they are until their length is known
            if result is not OK or type(extras) is not dict or (extras and not is_plain(extras)):
                return 0
            stored = []
            for item in spans:
                started_ns, closed_ns, fields = item._started_ns, item.closed_ns, item.extras
                if not closed_ns or item.status is not OK or item.name not in known_names or not is_plain(fields):
                    return 0
                stored.append({
                    "id": item.span_id, "parent": item._parent, "name": item.name,
                    "offset_ms": (started_ns - trace_ns) / 1e6, "duration_ms": (closed_ns - started_ns) / 1e6,
                    "status": OK, "extras": fields,
                })  # fmt: skip
            started_us, trace_id, parent_id = self.started_us, self.trace_id, self.parent_id
            capability, version = self.capability, self.version
            number = next(recorder.numbers)
            payload = _dumps((
                number, trace_id, parent_id, capability, version, started_us, trace_ns, duration_ms, OK, None, 0,
                stored, extras,
            ))  # fmt: skip
            if len(payload) > ROOM_BYTES:
                return number
            extras_bytes = len(_dumps(extras)) if extras else 2
            ring, buffer = box.traces, recorder.traces
            write, queue = ring.write, buffer.queue
            covered = _pack_fields(PAYLOAD_VERSION, extras_bytes, len(payload), next(ring.ordinals)) + payload
            frame = _pack_check(FRAME_MAGIC, crc32(covered)) + covered  # as `frames.pack`
            try:
                write(frame)
            except Exception:  # there is no space at its end, mostly  # noqa: BLE001
                box.turn(ring, frame)
            self._recorded = kept = (
                0, recorder.run_id, number, trace_id, parent_id, capability, version, started_us, trace_ns,
                duration_ms, OK, None, 0, frame,
            )  # fmt: skip
            queue.append(kept)
            if recorder.is_idle or len(queue) + len(buffer.in_flight) >= recorder.many_traces:
                recorder.wake_for_trace()
        except Exception:  # a name that is no text, an integer over 64 bits; or kept, and a signal handler's  # noqa: BLE001
            return None if number in recorder.pending_numbers() else number
        return None

    def _record(self, recorder: Recorder, spans: list[Span], ended_ns: int, number: int) -> None:
        """Records any trace, with the number that it has got already."""
        result: Any = self.result
        duration_ms: Any = self.duration_ms
        if type(result) is not str:
            result = self._decided()
        notable = 1 if duration_ms >= runtime.slow_ms or result not in _FINE else 0
        self._recorded = (
            0, recorder.run_id, number, self.trace_id, self.parent_id, self.capability, self.version, self.started_us,
            self.started_ns, duration_ms, result, self.error, notable, b"[]", b"{}",
        )  # fmt: skip
        if (slot := self._slot) is not None and (self.trace_id, self.started_ns) in slot.box.interrupted:
            return  # its run ended before it, and has recorded it
        try:
            calls_before = calls[0]
            in_json, extras = self._encoded(spans, ended_ns)
            if (self._odd is not None and self._odd.told) or calls[0] != calls_before:
                in_json, extras = self._without_told(spans, ended_ns)
            if self._oddities().said[1] is not self.error:  # the program has set it
                self.error = None if self.error is None else clean_text(self.error)
            values = (
                self.trace_id, self.parent_id, self.capability, self.version, self.started_us, self.started_ns,
                duration_ms, result, self.error, notable, in_json, extras,
            )  # fmt: skip
            self._recorded = recorder.record_trace(values, number)
        except Exception:  # the program set something unforeseen  # noqa: BLE001
            telemetry_dropped_total.labels(reason="unencodable").inc()

    def _decided(self) -> str:
        """Returns the result where none is set yet, or something that is no text."""
        if self.result is not None:
            self.fail(self.result)
        self.result = result = self.result or OK
        return result

    def _without_told(self, spans: list[Span], ended_ns: int) -> tuple[bytes, bytes]:
        """Returns the same without the secrets that one part of the trace has told, nowhere else."""
        odd = self._oddities()
        encoded, told = told_throughout(lambda: self._encoded(spans, ended_ns), odd.told)
        with Known(told):
            self.capability = clean_text(self.capability, MAX_CAPABILITY_CHARS)
            if self.error is not None:
                self.error = clean_text(odd.said[0] if odd.said[1] is self.error else self.error)
        return encoded

    def _encoded(self, spans: list[Span], ended_ns: int) -> tuple[bytes, bytes]:
        return encoded(spans, self.extras, ended_ns, 0 if self._odd is None else self._odd.dropped)

    def hold(self, values: LogValues, message: Counted | None = None) -> bool:
        """Keeps a log record until the end, to store it if the trace is notable; returns False if it cannot.

        If it is not stored, it is counted as dropped of `message`.
        """
        if self.ended:
            return False
        if self._held is None:
            self._held = _Held()
        if len(self._held) >= _MAX_HELD:
            return False
        self._held.append((values, message))
        return True

    def _release_held(self, recorder: Recorder) -> None:
        held, self._held = self._held or _Held(), None
        waiting = held[:]
        held.clear()
        for values, message in waiting:
            if self.notable:
                recorder.record_log(values)
            elif message is not None:
                message.drop_row()

    def _log_done(self, level: int, result: str) -> None:
        if not is_enabled(_log, level) and not _log.isEnabledFor(level):  # which counts what does not come
            return
        ms, name = self.duration_ms, self.capability
        fields: dict[str, Any] = {"trace_id": self.trace_id, "capability": name, "result": result, "ms": ms}
        if self.error is not None:
            fields["error"] = self.error
        if not log_done(level, fields):
            outside = swap(self)  # of which a record has the id
            try:
                _log.log(level, done_text(fields), extra=dict([*fields.items()][1:]))
            finally:
                swap(outside)

    def as_dict(self) -> dict[str, Any]:
        """Returns the trace with the names and the order of its columns, spans unfolded."""
        is_whole = self._spans is not None or hasattr(self, "_decoded")
        spans = [item.as_dict() for item in self.spans] if is_whole else orjson.loads(self._stored_spans())
        return {
            "seq": self.seq,
            "run_id": self.run_id,
            "number": 0 if self._recorded is None else self._recorded[_NUMBER],
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


trace_types.add(Trace)
