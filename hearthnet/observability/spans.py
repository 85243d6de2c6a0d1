"""Spans, and the scopes that tie traces and spans to a context.

A span is its own scope: while it is open it is what the context variable holds, so a span that opens inside finds its
parent there. A trace's scope is a `Root`. A span outside any trace, or of a trace that has ended, is an orphan: it
measures, is counted, and is stored nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from functools import partial, wraps
from time import monotonic_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, cast

import orjson

from hearthnet.observability.context import Scope, current
from hearthnet.observability.ids import new_span_id
from hearthnet.observability.metrics import orphan_spans_total
from hearthnet.observability.record import encode, safe_text
from hearthnet.observability.results import CANCELLED

if TYPE_CHECKING:
    from hearthnet.observability.tracing import Trace

__all__ = ["Root", "Span", "describe"]

P = ParamSpec("P")
R = TypeVar("R")

_SHORT_NAME_CHARS: Final = 128


class Span:
    """A named part of a trace. Made by `span(name, **extras)`; serves one `with` or `async with`, or as a decorator.

    Attributes:
        id: 8 bytes in hexadecimal.
        parent: the id of the span around it; None directly under the trace.
        name: what is done; a constant.
        offset_ms: from the start of the trace.
        duration_ms: None while it is open.
        status: `ok`, `error`, `cancelled`, or `open` for one that the end of its trace cut short.
        extras: fields; may be added to until the trace ends. Bounded and redacted when the trace is recorded.
    """

    __slots__ = ("_ended_ns", "_outer", "_started_ns", "extras", "id", "name", "parent", "status", "trace")

    trace: Trace

    def __init__(self, name: str, /, **extras: Any) -> None:
        self.name = name
        self.extras = extras
        self.id = ""
        self.parent: str | None = None
        self.status = "ok"
        self._started_ns = self._ended_ns = 0

    @property
    def span_id(self) -> str:
        """The id, under the name that every scope has for it."""
        return self.id

    @property
    def started_ns(self) -> int:
        """When it was opened, on the monotonic clock of its run."""
        return self._started_ns

    @property
    def offset_ms(self) -> float:
        """Milliseconds from the start of the trace to the start of the span."""
        return (self._started_ns - self.trace.started_ns) / 1e6

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds that the span took; None while it is open."""
        return (self._ended_ns - self._started_ns) / 1e6 if self._ended_ns else None

    def __enter__(self) -> Self:
        self._outer = outer = current.get()
        trace = None if outer is None else cast("Trace", outer.trace)  # tracing sets only its own scopes
        if outer is None or trace is None or trace.ended:
            self.id = ""  # an orphan: it measures, and is stored nowhere
            orphan_spans_total.inc()
        else:
            self.id = new_span_id()
            self.parent = outer.span_id
            self.trace = trace
            self._started_ns = started_ns = monotonic_ns()
            trace.add_span(self, started_ns)
            current.set(self)
            return self
        self._started_ns = monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended_ns = monotonic_ns()
        if error is not None:
            self.fail(error)
        if self.id and not self.trace.ended:  # else `detach` has put back what was before the trace
            current.set(self._outer)
            self.trace.close_span(self)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def fail(self, error: BaseException) -> None:
        """Marks the span failed, or cancelled where the work was cut short rather than wrong."""
        self.status = "error" if isinstance(error, Exception) else CANCELLED
        if isinstance(self.extras, dict):  # the program may have put anything there
            self.extras.setdefault("error", describe(error))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Returns `function` (plain, async, or a generator of either kind) with a span around each of its calls."""
        import inspect

        from hearthnet.observability import generators

        make = partial(Span, self.name, **self.extras)
        wrapped: Any
        if inspect.isasyncgenfunction(function):
            wrapped = generators.trace_async_generator(make, function)
        elif inspect.isgeneratorfunction(function):
            wrapped = generators.trace_generator(make, function)
        elif inspect.iscoroutinefunction(function):

            @wraps(function)
            async def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
                with make():
                    return await function(*args, **kwargs)

        else:

            @wraps(function)
            def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
                with make():
                    return function(*args, **kwargs)

        return cast("Callable[P, R]", wrapped)

    @classmethod
    def from_dict(cls, trace: Trace, stored: dict[str, Any]) -> Self:
        """Returns the span that a stored one tells of."""
        item = cls(stored["name"])
        item.trace = trace
        item.id, item.parent, item.status = stored["id"], stored["parent"], stored["status"]
        item.extras = stored["extras"]
        item._started_ns = trace.started_ns + round(stored["offset_ms"] * 1e6)
        item._ended_ns = item._started_ns + round(stored["duration_ms"] * 1e6)
        return item

    def as_dict(self, ended_ns: int | None = None) -> dict[str, Any]:
        """Returns the span as it is stored; one still open lasts until `ended_ns` and has the status `open`."""
        is_open = not self._ended_ns
        ended = (ended_ns or monotonic_ns()) if is_open else self._ended_ns
        return {
            "id": self.id,
            "parent": self.parent,
            "name": safe_text(self.name, _SHORT_NAME_CHARS),
            "offset_ms": (self._started_ns - self.trace.started_ns) / 1e6,
            "duration_ms": (ended - self._started_ns) / 1e6,
            "status": "open" if is_open else safe_text(self.status, _SHORT_NAME_CHARS),
            "extras": orjson.Fragment(encode(self.extras)),
        }


class Root:
    """The scope of a trace outside any span, in the context where it was started or attached."""

    __slots__ = ("outer", "started", "token", "trace")

    span_id: None = None
    token: Token[Scope | None]

    def __init__(self, trace: Trace, outer: Scope | None, started: bool) -> None:
        self.trace = trace
        self.outer = outer
        self.started = started

    @classmethod
    def enter(cls, trace: Trace, *, started: bool) -> None:
        """Makes `trace` current, as its starter or merely attached."""
        root = cls(trace, current.get(), started)
        root.token = current.set(root)

    @staticmethod
    def innermost() -> Root | None:
        """Returns the root of the current trace, past spans that were left open."""
        scope = current.get()
        while isinstance(scope, Span):
            scope = scope._outer
        return scope  # type: ignore[return-value]  # tracing sets only spans and roots

    def leave(self) -> bool:
        """Puts the previous scope back; returns whether this context is the one that started the trace."""
        try:
            current.reset(self.token)
        except (ValueError, RuntimeError):  # a token of another context: the trace came with a copy of it
            current.set(self.outer)
            return False
        return self.started


def describe(error: BaseException) -> str:
    """Returns type and message of an error, bounded. Never raises."""
    message = safe_text(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
