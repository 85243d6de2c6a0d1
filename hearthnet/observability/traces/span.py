"""Spans, and the scopes that tie traces and spans to a context.

A span is its own scope: while open it is the value of the context variable, so a span opened inside finds its parent
there. A trace is its own scope where it began, and has a `Root` where it is attached. A span outside any trace, or of a
trace that has ended, is an orphan: it measures and is counted, but not stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Token
from functools import partial
from time import monotonic_ns
from types import TracebackType

import orjson

from hearthnet.forensics.marks import SPAN
from hearthnet.observability.metrics import orphan_spans_total
from hearthnet.observability.records.context import collector, current, swap
from hearthnet.observability.records.ids import id_source, new_span_id
from hearthnet.observability.records.record import LogValues, clean_text, encode, error_text, is_a, is_plain
from hearthnet.observability.records.results import CANCELLED, OK
from hearthnet.observability.redaction.rules import on_change
from hearthnet.observability.redaction.told import Told, known

__all__ = [
    "Root",
    "Span",
    "describe",
    "innermost_root",
    "orphans",
    "outer_of",
    "outermost_root",
    "quoted_name",
    "recent_orphans",
    "restore",
    "span",
    "step_out",
    "trace_types",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, ParamSpec, Protocol, Self, TypeVar

    from hearthnet.observability.records.blackbox import Slot
    from hearthnet.observability.records.context import Counted, Scope

    P = ParamSpec("P")
    R = TypeVar("R")


_BY_KEYWORD: Final[str] = object()  # type: ignore[assignment]  # the name is, as in `span(name="x")`
_SHORT_NAME_CHARS: Final = 128
MAX_SPANS: Final = 1_000  # of a trace in memory; about 8 KiB hold sixty
_MAX_NAMES: Final = 1_024
# Names of the last orphans. Code that loses its context does so repeatedly, so a few are enough.
orphans: Final[deque[str]] = deque(maxlen=32)
# What a scope may be that is a trace itself: `trace` adds its class, which is above this module.
trace_types: Final[set[type]] = set()
_new: Final = object.__new__
_pack_span: Final = SPAN.pack_into
_scope: Final = current.get
_set_scope: Final = current.set


if TYPE_CHECKING:

    class OpenTrace(Protocol):
        """A trace as its spans know it, and as a scope."""

        started_ns: int
        ended: bool
        is_over: bool
        token: Token[Scope | None] | None
        _spans: list[Span] | None
        _top: Span | None
        _slot: Slot | None

        def note_told(self, told: Sequence[str]) -> None:
            """Remembers secrets that one of its spans has told."""

        @property
        def trace(self) -> OpenTrace:
            """Itself."""

        @property
        def span_id(self) -> None:
            """None: it is the root."""

        @property
        def closed_ns(self) -> int:
            """0: a root is open as long as its trace."""

        @property
        def outer(self) -> Scope | None:
            """The scope in which it began."""

        @property
        def trace_id(self) -> str:
            """Its ULID."""

        def hold(self, values: LogValues, message: Counted | None = None) -> bool:
            """See `TraceLike`."""

        def add_span(self, opened: Span, started_ns: int) -> None:
            """Adds a span that has just opened."""

        def close_span(self, closed: Span) -> None:
            """Removes a span from those that are open."""

        def leave(self) -> bool:
            """Puts the previous scope back; returns whether the trace began in this context."""

        def end(self) -> None:
            """Ends and records the trace, once."""


class Span:
    """A named part of a trace. Made by `span(name, **extras)`; serves one `with` or `async with`, or as a decorator.

    Attributes:
        span_id: the id; empty before the span is opened, and for an orphan.
        name: a constant.
        offset_ms: from the start of the trace.
        duration_ms: None while it is open.
        status: `ok`, `error`, `cancelled`, or `open` for one still open at the end of its trace.
        extras: fields; may be added to until the trace ends. Bounded and redacted when the trace is recorded.
        closed_ns: when it closed, on the monotonic clock of its run; 0 while it is open.
        outer: the scope in which it was opened.

    Raises:
        TypeError: raised when it is made without a name.
    """

    __slots__ = (
        "_parent", "_started_ns", "below", "closed_ns", "extras", "name", "outer", "span_id", "status", "trace",
    )  # fmt: skip

    trace: OpenTrace
    outer: Span | Root | OpenTrace
    below: Span | None  # of its trace, the one that was opened last before it and was open then
    _parent: str | None  # this and the next from when it is opened
    _started_ns: int

    def __init__(self, name: str = _BY_KEYWORD, /, **extras: object) -> None:
        if name is _BY_KEYWORD:
            if "name" not in extras:
                raise TypeError("span() takes the span's name")
            name = extras.pop("name")  # type: ignore[assignment]  # as any name: it is cleaned when the span opens
        self.name = name
        self.extras = extras
        self.span_id = ""
        self.closed_ns = 0
        self.status = OK

    @property
    def id(self) -> str:
        """The id; empty before the span is opened, and for an orphan."""
        return self.span_id

    @property
    def parent(self) -> str | None:
        """The id of the span around it; None directly under the trace."""
        return self._parent if self.span_id else None

    @property
    def started_ns(self) -> int:
        """When it was opened, on the monotonic clock of its run; 0 before."""
        return getattr(self, "_started_ns", 0)

    @property
    def offset_ms(self) -> float:
        """Milliseconds from the start of the trace to the start of the span."""
        return (self._started_ns - self.trace.started_ns) / 1e6

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds that the span took; None while it is open."""
        return (self.closed_ns - self._started_ns) / 1e6 if self.closed_ns else None

    def __enter__(self) -> Self:
        outer: Any = _scope()
        if type(outer) is Span:
            trace, parent, is_open = outer.trace, outer.span_id, not outer.closed_ns
        else:
            trace, parent, is_open = outer, None, type(outer) in trace_types
        name = self.name
        if not is_open or self.span_id or collector.thread or type(name) is not str:
            return self._enter(outer)
        spans = trace._spans
        if name not in known_names or spans is None or len(spans) >= MAX_SPANS:
            return self._enter(outer)
        try:
            self.span_id = next(id_source.span_ids)
        except StopIteration:  # others are drawn
            self.span_id = new_span_id()
        self.outer, self.trace, self._parent = outer, trace, parent
        self._started_ns = started_ns = monotonic_ns()
        self.below = trace._top
        trace._top = self
        spans.append(self)
        if (slot := trace._slot) is not None:
            try:
                _pack_span(slot.box.table, slot.span_at, known_names[name], started_ns, 1)
            except (KeyError, TypeError, ValueError):  # see `open_span`; the names have just been cleared
                slot.box.open_span(slot, name, started_ns)
        _set_scope(self)
        return self

    def _enter(self, outer: Span | Root | OpenTrace | None) -> Self:
        """Opens the span in any order of calls."""
        if self.span_id:
            return self._open_again()
        if outer is None or (trace := outer.trace).ended:
            self.closed_ns = 0  # an orphan: it measures, but is not stored
            orphan_spans_total.inc()
            orphans.append(self.name)
            self._started_ns = monotonic_ns()
            return self
        name = self.name
        if type(name) is not str or name not in known_names:
            self.name = _clean_name(name)
        if outer.closed_ns:  # out of order, elsewhere, or since this context was copied
            outer = _open_around(outer)
        self.outer = outer
        self._parent = outer.span_id
        self.span_id = new_span_id()
        self.trace = trace
        self._started_ns = started_ns = monotonic_ns()
        trace.add_span(self, started_ns)
        if not collector.thread or not collector.is_here():
            current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_ns = monotonic_ns()
        if error is not None or _scope() is not self or collector.thread or (trace := self.trace)._top is not self:
            self._exit(kind, error, traceback, ended_ns)
            return
        self.closed_ns = ended_ns
        _set_scope(self.outer)
        if self.below is not None:
            trace.close_span(self)
            return
        trace._top = None
        if (slot := trace._slot) is not None:
            try:
                slot.box.table[slot.span_mark_at] = 0
            except (OSError, ValueError):
                slot.box.close_span(slot)

    def _exit(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        ended_ns: int,
    ) -> None:
        """Closes the span in any order of calls."""
        scope = current.get()
        inside: Span | None = self
        if scope is not self:
            inside = _opening_of(self, scope)
            if inside is not None and inside is not self:
                inside.__exit__(kind, error, traceback)
                return
        is_open = not self.closed_ns
        if is_open:  # else something else has closed it
            self.closed_ns = ended_ns
            if error is not None:
                self.fail(error)
        if self.span_id and not (trace := self.trace).ended:  # else `detach` has restored the scope before the trace
            # Spans that were opened inside, and left open, go with it.
            if inside is not None and (not collector.thread or not collector.is_here()):
                current.set(self.outer)
            if is_open:
                trace.close_span(self)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def open_in(self, outer: Span | Root | OpenTrace, parent: str | None, started_ns: int) -> None:
        """Opens the span without making it current: for those that `close` ends, in any context.

        Args:
            outer: the scope that it is in.
            parent: the id of the span around it, which may have closed; None directly under the trace.
            started_ns: when it began, on the monotonic clock of its run.
        """
        self.name = _clean_name(self.name)
        self.outer = outer
        self._parent = parent
        self.span_id = new_span_id()
        self.trace = outer.trace
        self._started_ns = started_ns
        self.trace.add_span(self, started_ns)

    def close(self, closed_ns: int) -> None:
        """Closes the span, once. What made it current restores the scope."""
        if not self.closed_ns:
            self.closed_ns = closed_ns
            if self.span_id and not self.trace.ended:
                self.trace.close_span(self)

    def rename(self, name: object) -> None:
        """Gives it another name."""
        self.name = _clean_name(name)

    def _shown_name(self) -> str:
        """Returns the name without secrets: the program may have set another."""
        name = self.name
        return name if type(name) is str and name in known_names else clean_text(name, _SHORT_NAME_CHARS)

    def _open_again(self) -> Self:
        """Opens another span like it: this one may still be open, around this code or in another task."""
        again = _Again(self.name, **self.extras) if isinstance(self.extras, dict) else _Again(self.name)
        again.origin = self
        return again.__enter__()  # type: ignore[return-value]

    def fail(self, error: BaseException) -> None:
        """Marks the span failed, or cancelled where the work was cut short rather than wrong."""
        self.status = "error" if is_a(error, Exception) else CANCELLED
        if isinstance(self.extras, dict):  # the program may have set anything
            with Told() as told:
                self.extras.setdefault("error", describe(error))
            if told and self.span_id:
                self.trace.note_told(told)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Returns `function` with a span around each of its calls; see `traces.decorator`."""
        from hearthnet.observability.traces.decorator import decorate  # late: it imports `inspect`

        decorated: Callable[P, R] = decorate(partial(Span, self.name, **self.extras), function)
        return decorated

    @classmethod
    def from_dict(cls, trace: OpenTrace, stored: dict[str, Any]) -> Self:
        """Returns the span of a stored one."""
        item = cls(stored["name"])
        item.trace = trace
        item.span_id = stored["id"]
        item._parent = stored["parent"]
        item.status = stored["status"]
        item.extras = stored["extras"]
        item._started_ns = trace.started_ns + round(stored["offset_ms"] * 1e6)
        item.closed_ns = item._started_ns + round(stored["duration_ms"] * 1e6)
        return item

    def as_dict(self, ended_ns: int | None = None) -> dict[str, Any]:
        """Returns the span as it is stored; one still open lasts until `ended_ns` and has the status `open`.

        It can be encoded if names are valid UTF-8 text; see `as_safe_dict`.
        """
        started_ns, closed_ns, extras = self._started_ns, self.closed_ns, self.extras
        return {
            "id": self.span_id,
            "parent": self._parent,
            "name": self.name if self.name in known_names and not known else clean_text(self.name, _SHORT_NAME_CHARS),
            "offset_ms": (started_ns - self.trace.started_ns) / 1e6,
            "duration_ms": ((closed_ns or ended_ns or monotonic_ns()) - started_ns) / 1e6,
            "status": (self.status if self.status in _STATUSES else clean_text(self.status)) if closed_ns else "open",
            "extras": extras if is_plain(extras) else orjson.Fragment(encode(extras)),
        }

    def as_safe_dict(self, ended_ns: int) -> dict[str, Any]:
        """Returns the span as it is stored, whatever the program has put into it."""
        stored = self.as_dict(ended_ns)
        stored["name"] = clean_text(self.name, _SHORT_NAME_CHARS)
        stored["status"] = clean_text(stored["status"], _SHORT_NAME_CHARS)
        stored["extras"] = orjson.Fragment(encode(self.extras))
        return stored


def span(name: str = _BY_KEYWORD, /, **extras: object) -> Span:
    """Returns a span that is not open yet; see `Span`. A class that is called takes twice as long as this function.

    Raises:
        TypeError: raised without a name, and when the name is a function: `@span("name")`, with a name.
    """
    if type(name) is not str:
        return _made_otherwise(name, extras)
    made = _new(Span)
    made.name = name
    made.extras = extras
    made.span_id = ""
    made.closed_ns = 0
    made.status = OK
    return made


def _made_otherwise(name: object, extras: dict[str, Any]) -> Span:
    """Returns a span whose name is a keyword, or no text."""
    if name is _BY_KEYWORD:
        return Span(**extras)
    if callable(name):
        raise TypeError(f"a span has a name: @span({quoted_name(name)})")
    return Span(name, **extras)  # type: ignore[arg-type]  # no text: it is cleaned when the span opens


def quoted_name(function: object) -> str:
    """Returns a function's name in quotes, for the decorator that lacks it."""
    name = getattr(function, "__name__", "")
    return f'"{name if isinstance(name, str) and name.isidentifier() else "name"}"'


class _Again(Span):
    """A second opening of a span that had been opened before; the exit of that one ends it."""

    __slots__ = ("origin",)

    origin: Span


def _opening_of(opened: Span, scope: object) -> Span | None:
    """Returns `opened`, or its innermost second opening that is open, if this context is inside it; else None."""
    while isinstance(scope, Span):
        if scope is opened or (isinstance(scope, _Again) and scope.origin is opened and not scope.closed_ns):
            return scope
        scope = scope.outer
    return None


def _open_around(scope: Span | Root | OpenTrace) -> Span | Root | OpenTrace:
    """Returns the innermost scope around a closed span that is open."""
    while isinstance(scope, Span) and scope.closed_ns:
        scope = scope.outer
    return scope


class Root:
    """The scope of a trace outside any span, in a context that it is attached to."""

    __slots__ = ("token", "trace")

    closed_ns = 0
    span_id: None = None
    token: Token[Scope | None]

    def __init__(self, trace: OpenTrace) -> None:
        self.trace = trace

    @property
    def outer(self) -> Scope | None:
        """The scope in which the trace was attached."""
        return outer_of(self.token)

    def leave(self) -> bool:
        """Puts the previous scope back. Returns False: a trace does not end where it is merely attached."""
        restore(self.token)
        return False


def innermost_root() -> Root | OpenTrace | None:
    """Returns the root of the current trace, past spans that were left open."""
    scope = current.get()
    while isinstance(scope, Span):
        scope = scope.outer
    return scope  # type: ignore[return-value]  # tracing sets only its own scopes


def outermost_root(trace: OpenTrace) -> Root | OpenTrace | None:
    """Returns the first scope of `trace` in this context, past scopes left on top of it, or None.

    Such as a trace that was begun inside and, because of an exception, never detached.
    """
    found: Root | OpenTrace | None = None
    scope: Span | Root | OpenTrace | None = current.get()  # type: ignore[assignment]  # tracing sets only its own scopes
    while scope is not None:
        if scope.trace is trace and not isinstance(scope, Span):
            found = scope
        scope = scope.outer  # type: ignore[assignment]  # as above
    return found


def step_out() -> None:
    """Leaves scopes that have ended for one around them that has not: calls in odd orders restore such scopes."""
    first: Span | Root | OpenTrace | None = current.get()  # type: ignore[assignment]  # as above
    scope = first
    while scope is not None and (scope.trace.ended or (isinstance(scope, Span) and scope.closed_ns)):
        scope = scope.outer  # type: ignore[assignment]  # as above
    if scope is not None and scope is not first:
        swap(scope)


def outer_of(token: Token[Scope | None] | None) -> Scope | None:
    """Returns the scope that was current when `token` was made."""
    return None if token is None or token.old_value is Token.MISSING else token.old_value


def restore(token: Token[Scope | None]) -> bool:
    """Puts the previous scope back; returns whether `token` is of this context, not of one that it is a copy of."""
    try:
        current.reset(token)
    except (ValueError, RuntimeError):
        current.set(outer_of(token))
        return False
    return True


_STATUSES: Final = (OK, "error", CANCELLED)
known_names: dict[str, bytes] = {}  # of spans, that can be recorded as they are: encoded
on_change(known_names.clear)


def _clean_name(name: object) -> str:
    """Returns the name as it is recorded, and caches it."""
    safe = clean_text(name, _SHORT_NAME_CHARS)
    if len(known_names) >= _MAX_NAMES:
        known_names.clear()
    known_names[safe] = safe.encode()
    return safe


def describe(error: BaseException) -> str:
    """Returns type and message of an error, of a group its members, bounded. Never raises."""
    return clean_text(error_text(error))


def recent_orphans() -> list[str]:
    """Returns the names of the last orphans, newest first, each once; the doctor shows them."""
    return list(dict.fromkeys(clean_text(name, _SHORT_NAME_CHARS) for name in reversed(orphans.copy())))
