"""The context of OpenTelemetry's API and ours, as one.

Each side has a context variable of its own. `RuntimeContext` takes the place of the API's: a span that is attached
there becomes current on our side as well, and a caller that asks there gets our span, if one was opened since. So
`get_current_span()` inside our `span`, and `current_trace()` inside `start_as_current_span`, are what one expects, and
our own spans pay nothing for it.

A context may be detached where it was not attached (at the end of a generator that its consumer has forgotten), or
before those that were attached later. It is marked then, and dropped by the next call where it is the last; nothing is
raised or logged.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.context.context import Context, _RuntimeContext
from opentelemetry.trace import INVALID_SPAN, Span, get_current_span, set_span_in_context

from hearthnet.observability.otel.bridge.span import BridgeSpan
from hearthnet.observability.records.context import collector, current
from hearthnet.observability.traces.span import Root, restore
from hearthnet.observability.traces.span import Span as OurSpan
from hearthnet.observability.traces.trace import Trace

if TYPE_CHECKING:
    from hearthnet.observability.records.context import Scope

__all__ = ["RuntimeContext", "live_scope"]


class _Attached:
    """A context that was attached, and the token for detaching it.

    Attributes:
        context: the context.
        scope: our scope since then.
        outer: what was attached before.
        token: of `_attached`.
        entered: of our own variable, if attaching has set it.
        is_left: whether it was detached.
    """

    __slots__ = ("context", "entered", "is_left", "outer", "scope", "token")

    token: Token[_Attached | None]

    def __init__(self, context: Context, outer: _Attached | None, entered: Token[Scope | None] | None) -> None:
        self.context = context
        self.outer = outer
        self.entered = entered
        self.scope = current.get()
        self.is_left = False


_attached: Final[ContextVar[_Attached | None]] = ContextVar("hearthnet_otel", default=None)


class RuntimeContext(_RuntimeContext):
    """The API's current context, which knows our scopes.

    Args:
        before: the one that was there; contexts that are attached to it stay.
    """

    def __init__(self, before: _RuntimeContext) -> None:
        self.before = before

    def attach(self, context: Context) -> Token[Context]:
        """Makes a context current; returns what `detach` takes."""
        if collector.thread and collector.is_here():  # nothing may be set here: see records/context.py
            return cast("Token[Context]", None)
        entry = _Attached(context, _attached.get(), _enter(get_current_span(context)))
        entry.token = _attached.set(entry)
        return cast("Token[Context]", entry)

    def detach(self, token: Token[Context]) -> None:
        """Puts the context back that was current before."""
        entry: Any = token
        if isinstance(entry, Token):
            self.before.detach(entry)
        elif isinstance(entry, _Attached):
            entry.is_left = True
            _drop_left(entry)

    def get_current(self) -> Context:
        """Returns the context that was attached last, with our span in it if that was opened since."""
        entry = _drop_left()
        scope = current.get()
        context, noted = (self.before.get_current(), None) if entry is None else (entry.context, entry.scope)
        if scope is noted and (scope is None or not scope.closed_ns):
            return context
        live = live_scope(scope)
        if live is noted:
            return context
        shown: Span = INVALID_SPAN if live is None else BridgeSpan(_bridged(live))
        return set_span_in_context(shown, context)


def _drop_left(leaving: _Attached | None = None) -> _Attached | None:
    """Returns what was attached last, once what was detached is gone from there, and from our side.

    Spans of ours that are open inside `leaving`, which is detached just now, go with it. A context that was detached
    elsewhere takes nothing with it: spans may have been opened since, and go on.
    """
    entry = _attached.get()
    is_free = not collector.thread or not collector.is_here()
    while entry is not None and entry.is_left:
        if is_free:
            try:
                _attached.reset(entry.token)
            except (ValueError, RuntimeError):  # of the context that this one is a copy of
                _attached.set(entry.outer)
            if entry.entered is not None and (entry is leaving or current.get() is entry.scope):
                restore(entry.entered)
        entry = entry.outer
    return entry


def live_scope(scope: Scope | None) -> OurSpan | Root | Trace | None:
    """Returns the innermost scope around `scope` that is open, and whose trace is."""
    found = cast("OurSpan | Root | Trace | None", scope)  # tracing sets only its own scopes
    while found is not None and (found.closed_ns or found.trace.ended):
        found = cast("OurSpan | Root | Trace | None", found.outer)
    return found


def _bridged(scope: OurSpan | Root | Trace) -> OurSpan | Trace:
    return scope if isinstance(scope, OurSpan) else cast("Trace", scope.trace)


def _enter(span: Span) -> Token[Scope | None] | None:
    """Makes the scope of a span of ours current; returns the token if it was not yet."""
    if not isinstance(span, BridgeSpan) or span.trace.ended:
        return None
    live = live_scope(current.get())
    if live is not None and _bridged(live) is span.scope:
        return None
    if isinstance(span.scope, OurSpan):
        return current.set(span.scope)
    root = Root(span.scope)
    root.token = current.set(root)
    return root.token
