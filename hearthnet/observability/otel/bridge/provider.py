"""The API of OpenTelemetry over our traces: what a library instrumented for it does is recorded as spans of ours.

    from hearthnet.observability.otel import bridge
    bridge.install()

A span that is opened within a trace of ours belongs to it, whichever side opened the one around it. Without a trace it
begins one, whose capability is the span's name and whose id is that of the caller's trace, if its parent is remote.

Only `opentelemetry-api` is needed (`pip install 'hearthnet[otel]'`). `docs/opentelemetry-api.md` lists what the API
allows and is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import copy_context
from typing import Final

from opentelemetry import context as context_api
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util._decorator import _agnosticcontextmanager
from opentelemetry.util.types import Attributes

from hearthnet.observability.logging import get_logger
from hearthnet.observability.otel.bridge.context import RuntimeContext, live_scope
from hearthnet.observability.otel.bridge.span import BridgeSpan, capability_of, monotonic_of, to_ulid, wall_time
from hearthnet.observability.otel.fields import PARENT_IS_REMOTE
from hearthnet.observability.records.context import current
from hearthnet.observability.traces.begin import new_trace
from hearthnet.observability.traces.span import Root, Span, describe
from hearthnet.observability.traces.trace import Trace
from hearthnet.observability.traces.traceparent import read_tracestate

__all__ = ["Tracer", "TracerProvider", "install"]

log = get_logger(__name__)

_RANDOM: Final = 2
_RUNTIME: Final = "_RUNTIME_CONTEXT"
# Two, of which instrumentations set the first, the second, or both.
_SUPPRESSION_KEYS: Final = ("suppress_instrumentation", context_api._SUPPRESS_INSTRUMENTATION_KEY)  # noqa: SLF001


def install() -> bool:
    """Makes this package the provider of OpenTelemetry's tracers in this process.

    Tracers that were taken before begin to record. May be called again.

    Returns:
        Whether it is the provider now. The API takes one provider, once: if there is another, that stays, and a warning
        names it.
    """
    there = api.get_tracer_provider()
    if isinstance(there, api.ProxyTracerProvider):
        api.set_tracer_provider(TracerProvider())
        there = api.get_tracer_provider()
    if isinstance(there, TracerProvider):
        return True
    name = f"{type(there).__module__}.{type(there).__qualname__}"
    log.warning("another provider has OpenTelemetry's tracers", extra={"provider": name})
    return False


def _join_contexts() -> None:
    """Has the API's context know ours, from now on."""
    there = getattr(context_api, _RUNTIME, None)
    if there is None:  # a later API: its spans still nest, among themselves
        log.warning("this version of OpenTelemetry's API does not see our spans as current")
    elif not isinstance(there, RuntimeContext):
        setattr(context_api, _RUNTIME, RuntimeContext(there))


class TracerProvider(api.TracerProvider):
    """Gives tracers that record into our traces; also the entry point `hearthnet` of `OTEL_PYTHON_TRACER_PROVIDER`."""

    def __init__(self) -> None:
        _join_contexts()

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        """Returns a tracer; of its arguments the name is recorded with each span."""
        return Tracer(instrumenting_module_name)

    def add_span_processor(self, span_processor: object) -> None:
        """Does nothing: spans become records of ours, and are exported from there. Callers expect it to be there."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Does nothing: records are kept from the moment they are made."""
        return True

    def shutdown(self) -> None:
        """Does nothing: the program's telemetry is closed by what opened it."""


class Tracer(api.Tracer):
    """Makes spans. Args: scope_name: of the library that is instrumented."""

    def __init__(self, scope_name: str) -> None:
        self._scope_name = scope_name

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> api.Span:
        """Returns a span that has begun, and is not current. Never raises.

        Under one of the suppression keys it records nothing and has the context of its parent.
        """
        parent: api.Span = INVALID_SPAN
        try:
            parent = get_current_span(context)
            if any(context_api.get_value(key, context) for key in _SUPPRESSION_KEYS):
                return NonRecordingSpan(parent.get_span_context())
            began = wall_time(start_time)
            made = BridgeSpan(
                _scope_under(parent, name, began),
                began,
                records_exceptions=record_exception,
                fails_with_exceptions=set_status_on_exception,
            )
        except Exception:  # what the program passes may do anything  # noqa: BLE001
            return NonRecordingSpan(parent.get_span_context())
        made.describe(self._scope_name, kind, attributes, links)
        return made

    @_agnosticcontextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[api.Span]:
        """Starts a span and makes it current, for `with` or as a decorator."""
        made = self.start_span(name, context, kind, attributes, links, start_time)
        try:
            token = context_api.attach(set_span_in_context(made))
            try:
                yield made
            finally:
                context_api.detach(token)
        # Not by the API's `use_span`: that lets an exception that has no text raise another in its place.
        except Exception as error:
            if record_exception:
                made.record_exception(error)
            if set_status_on_exception:
                made.set_status(StatusCode.ERROR, describe(error))
            raise
        finally:
            if end_on_exit:
                made.end()


def _scope_under(parent: api.Span, name: object, start_time: int | None) -> Span | Trace:
    """Returns what a new span is for us: a span of a running trace, or a trace of its own."""
    if isinstance(parent, BridgeSpan):
        if not parent.trace.ended:
            return _child(parent.scope, parent.scope.span_id, name, start_time)
        # The work goes on after its trace has ended: another visit of the same distributed trace.
        made = _root(name, start_time, parent.get_span_context())
        made.tracestate = parent.trace.tracestate
        return made
    remote = parent.get_span_context()
    if not remote.is_valid:
        return _root(name, start_time, None)
    running = None if remote.is_remote else live_scope(current.get())
    if running is not None:
        root = BridgeSpan(running.trace).get_span_context()  # type: ignore[arg-type]  # tracing sets its own scopes
        if root.trace_id == remote.trace_id:  # a span in between was not recorded
            return _child(
                running, None if root.span_id == remote.span_id else f"{remote.span_id:016x}", name, start_time
            )
    return _root(name, start_time, remote)


def _child(outer: Span | Root | Trace, parent: str | None, name: object, start_time: int | None) -> Span:
    made = Span(name)  # type: ignore[arg-type]  # any name is made one
    # No part begins before the whole.
    made.open_in(outer, parent, max(monotonic_of(start_time), outer.trace.started_ns))
    return made


def _begun(capability: str, trace_id: str | None, parent_id: str | None) -> Trace:
    """Returns a trace that is not current, with the whole name of its root."""
    made = copy_context().run(new_trace, capability, trace_id=trace_id, parent_id=parent_id)
    made.token = None
    made.capability, made.version = capability, None
    return made


def _root(name: object, start_time: int | None, parent: SpanContext | None) -> Trace:
    capability = capability_of(name)
    if parent is None:
        made = _begun(capability, None, None)
    else:
        made = _begun(capability, to_ulid(parent.trace_id), f"{parent.span_id:016x}")
        made.is_random = bool(parent.trace_flags & _RANDOM)
        made.tracestate = read_tracestate([parent.trace_state.to_header()]) if parent.trace_state else ""
        if not parent.is_remote:
            made.extras[PARENT_IS_REMOTE] = False
    if start_time is not None:
        made.started_ns, made.started_us = monotonic_of(start_time), start_time // 1_000
    return made
