"""Traces and spans: what a request did, where its time went, and how it ended.

`new_trace` makes a trace, which is current in its context until `detach` and is then recorded once, with its spans.
Spans find their parent through the context, also nested and parallel ones. Nothing here raises into the traced program,
waits, or touches a file.

    with trace("nightly", host="den"):      @trace("nightly")              started = new_trace("llm.chat")
        with span("fetch") as fetch:        async def main():              try:
            …                                   …                              …
            fetch.extras["bytes"] = 128     (also generators, methods …)   finally:
                                                                               detach()
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import Token
from functools import partial
from operator import index
from types import TracebackType

from hearthnet import observability
from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.observability.records.context import collector, current, innermost
from hearthnet.observability.records.record import is_a
from hearthnet.observability.records.results import OK, is_failure, result_of
from hearthnet.observability.runtime import runtime
from hearthnet.observability.traces.begin import new_trace
from hearthnet.observability.traces.span import Root, Span, innermost_root, quoted_name, span, step_out
from hearthnet.observability.traces.trace import Trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, ParamSpec, Self, TypeVar

    from hearthnet.observability.records.context import Scope
    from hearthnet.observability.traces.span import OpenTrace

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = [
    "Span",
    "Trace",
    "attach",
    "current_trace",
    "detach",
    "get_recent",
    "is_failure",
    "new_trace",
    "result_of",
    "span",
    "trace",
]

_MISSING: Final = Token.MISSING
# Bound once: a method of a name that is imported is bound anew at each call.
_scope: Final = current.get
_reset_scope: Final = current.reset


def attach(trace: Trace | None) -> None:
    """Makes an existing trace current in this task; neither starts nor ends it. `detach` takes it back.

    A trace that this very context began and that is current already stays so: `new_trace`, `attach`, `detach` is one
    trace, recorded. None, as returned by `current_trace` outside any trace, records nothing until `detach`.
    """
    if is_a(trace, Trace):
        if innermost_root() is trace and trace.began_here():
            return
    else:
        trace = _no_trace()
    root = Root(trace)
    root.token = current.set(root)


def _no_trace() -> Trace:
    """Returns a trace that has ended, so nothing is recorded in it."""
    return Trace.from_record((0, "", 0, "", None, "", None, 0, 0, 0.0, OK, None, 0, b"[]", b"{}"))


def detach() -> None:
    """Ends and records the current trace if this context started it; puts the previous one back.

    For a trace that was attached, or inherited with a copied context, it only restores. Without one it does nothing.
    An exception on its way out of the `try … finally` around this call sets the result, if nothing else did.
    """
    scope: Any = _scope()  # tracing sets only its own scopes
    if type(scope) is not Trace:
        _detach_around(innermost_root())
    elif (token := scope.token) is not None:
        try:
            _reset_scope(token)
        except (ValueError, RuntimeError):
            scope.leave()  # of a context that this one is a copy of
        else:
            scope.token = None
            if (error := sys.exception()) is not None:
                scope.fail_on_way(error)
            scope.end()
            if (outer := token.old_value) is _MISSING or outer is None:  # nothing is around it
                return
    if current.get() is not None:
        step_out()


def _detach_around(root: Root | OpenTrace | None) -> None:
    """Leaves the trace around spans that were left open, or one that was attached here."""
    if root is not None and root.leave():
        root.trace.end()


def current_trace() -> Trace | None:
    """Returns the trace of the current task, or None if there is none or it has ended."""
    scope = current.get()
    if scope is None:
        return None
    trace = _trace_of(scope)
    return None if trace.ended else trace


def _trace_of(scope: Scope) -> Trace:
    trace: Any = scope.trace  # tracing sets only its own scopes
    found: Trace = trace
    return found


class trace:  # noqa: N801  # used like a function
    """A trace around a block, `with` or `async with`, or around each call of a function of any kind.

    One that begins inside another trace is a trace of its own; its `extras.link` names the span around it. A decorated
    function has its trace as long as a span of it would last, see `traces.decorator`.

    Args:
        name: of the work, a constant, in the column `capability`: a node's traces are calls of its capabilities. What
            follows an `@` is the version.
        extras: fields of the trace.

    Raises:
        TypeError: raised when the name is a function: `@trace("name")`, with a name.
    """

    __slots__ = ("_extras", "_lost", "_name", "_open")

    def __init__(self, name: str, /, **extras: object) -> None:
        if callable(name):
            raise TypeError(f"a trace has a name: @trace({quoted_name(name)})")
        self._name = name
        self._extras = extras
        self._open: list[Trace] = []
        self._lost = 0  # of them, those whose blocks were left where that could not be seen

    def __enter__(self) -> Trace:
        begun = _begin(self._name, self._extras)
        self._open.append(begun)
        return begun

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        scope = current.get()
        here: Any = None if scope is None else scope.trace
        # The same object may be open in several tasks: each leaves its own.
        if here is not None and here in self._open:
            self._open.remove(here)
            here.__exit__(kind, error, traceback)
        else:  # left in another context, which does not know its trace
            self._lost += 1
        if 0 < self._lost >= len(self._open):  # all have been left
            self._lost, rest = 0, self._open[:]
            self._open.clear()
            for ending in rest:
                ending.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Trace:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Returns `function` with a trace around each of its calls, and else unchanged."""
        from hearthnet.observability.traces.decorator import decorate  # late: it imports `inspect`

        decorated: Callable[P, R] = decorate(partial(_Call, self._name, self._extras), function)
        return decorated


def _begin(name: str, extras: dict[str, Any]) -> Trace:
    around = innermost()
    begun = new_trace(name)
    if around is not None and not (outer := _trace_of(around)).ended:
        with suppress(ImportError):  # a signal handler has interrupted that import, and comes here itself
            from hearthnet.observability.traces.traceparent import root_span_id  # late: it is rarely needed

            span_id = around.span_id or root_span_id(outer.trace_id, outer.started_us, outer.started_ns)
            begun.extras["link"] = {"trace_id": outer.trace_id, "span_id": span_id}
    begun.extras.update(extras)
    return begun


class _Call:
    """A trace around one call, in the place of the span that the decorator opens."""

    __slots__ = ("_begun", "_extras", "_name")

    span_id: Final = "root"  # it records, also outside any trace

    def __init__(self, name: str, extras: dict[str, Any]) -> None:
        self._name = name
        self._extras = extras

    @property
    def status(self) -> str:
        """How it ended; set by the decorator for a task that is cancelled."""
        return self._begun.result or OK

    @status.setter
    def status(self, status: str) -> None:
        self._begun.fail(status)

    def __enter__(self) -> Self:
        self._begun = _begin(self._name, self._extras)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        begun = self._begun
        if error is None and begun.result is None:
            begun.result = OK  # whatever is being handled here, such as the end of a generator, is not its error
        if collector.thread and collector.is_here():  # a forgotten generator: see records/context.py
            begun.end()
        else:
            begun.__exit__(kind, error, traceback)


def get_recent(n: int = 100) -> list[Trace]:
    """Returns the last `n` completed traces, newest first: from SQL, and those of this process that are not there yet.

    Any process may ask. One that has telemetry open, or had, reads that store; any other the standard one. Without a
    database that can be read, those in memory are returned. Takes a millisecond or two of reading: not for a loop.

    Raises:
        TypeError: raised when `n` is no whole number.
    """
    try:
        wanted = min(index(n), TRACE_RING_BUFFER)
    except TypeError:
        raise TypeError(f"n is the number of traces, an int: got {type(n).__name__}") from None
    if wanted < 1:
        return []
    read = runtime.recent or observability.read_recent
    return [Trace.from_record(record) for record in read(wanted)]
