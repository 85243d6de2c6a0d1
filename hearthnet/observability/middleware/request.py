"""One HTTP request as a trace: how it begins, its fields, and its result. For both kinds of middleware.

The result is `ok` for every status below 500: an error of the caller's is no failure of the program, and scanners
make thousands of them. Its status is an extra of the trace and a label of the metric. An exception, a status from 500
on and a response that was never completed are failures; a request whose client has left is `cancelled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from time import monotonic_ns
from types import CodeType, FrameType
from typing import Final

from hearthnet.constants import MAX_CAPABILITY_CHARS
from hearthnet.observability import metrics
from hearthnet.observability.logging import get_logger
from hearthnet.observability.logs.tracebacks import recorders
from hearthnet.observability.middleware.routes import KnownTemplates
from hearthnet.observability.records.record import clean_text, is_a, safe_text
from hearthnet.observability.records.results import CANCELLED
from hearthnet.observability.traces.trace import Trace
from hearthnet.observability.traces.traceparent import (
    TRACEPARENT,
    TraceParent,
    parse,
    read_tracestate,
    root_span_id,
    spell,
)
from hearthnet.observability.tracing import new_trace

__all__ = ["Request", "active_requests", "begin", "duration_seconds", "note_recorder", "status_of"]

log = get_logger(__name__)

METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
STATUS: Final = "http.response.status_code"
_W3C_HEADERS: Final = frozenset({TRACEPARENT, "traceresponse"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
_OTHER: Final = "_OTHER"  # by the conventions: an unknown method may be anything
_FIRST_FAILURE: Final = 500
_SOON_NS: Final = 5_000_000_000  # a server tells of an exception at once; what tells of it later has kept it
_RESULTS: Final = {501: "not_implemented", 504: "timeout"}
# Seconds, by the conventions.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

# The names are those of OpenTelemetry's conventions, as Prometheus spells them.
duration_seconds: Final = metrics.histogram(
    "http_server_request_duration_seconds",
    "How long requests took, until the last byte of the response.",
    ["http_request_method", "http_route", "http_response_status_code"],
    _BUCKETS,
)
active_requests: Final = metrics.gauge(
    "http_server_active_requests", "Requests being served now.", ["http_request_method"]
)


class Request:
    """A request that is being served.

    Attributes:
        trace: its trace, which is current where it began.
        route: the template of its route; None: not known, or there is none.
        status: of the response; None: it has not started.
        ended_ns: when the response was complete, on the monotonic clock; 0: it is not.
        is_gone: whether the client has left.
        logged_ns: when its exception was taken with its traceback, on the monotonic clock; 0: it was not.
    """

    __slots__ = ("_active", "_method", "ended_ns", "is_gone", "logged_ns", "route", "status", "trace")

    def __init__(self, method: str, trace: Trace) -> None:
        self._method = method
        self.trace = trace
        self.route: str | None = None
        self.status: int | None = None
        self.ended_ns = self.logged_ns = 0
        self.is_gone = False
        self._active = active_requests.labels(method)
        self._active.inc()

    def header(self, name: str) -> str:
        """Returns the value of a response header that names the trace: as W3C has it, or the trace's id."""
        trace = self.trace
        if name.lower() not in _W3C_HEADERS:
            return trace.trace_id
        span_id = root_span_id(trace.trace_id, trace.started_us, trace.started_ns)
        return spell(trace.trace_id, span_id, is_random=trace.is_random)

    def end(self, error: BaseException | None, templates: KnownTemplates) -> None:
        """Ends and records the trace, in any context, and counts the request. Never raises.

        The trace lasts until the response was complete, also where work went on after it.
        """
        ended_ns = self.ended_ns or monotonic_ns()
        trace, status, route = self.trace, self.status, self.route
        if route is not None:
            route = clean_text(route)
            templates.learn(route)
        trace.capability = safe_text(_name(self._method, route), MAX_CAPABILITY_CHARS)
        if is_a(trace.extras, dict):  # the program may have set anything
            for name, value in ((METHOD, self._method), (ROUTE, route), (STATUS, status)):
                if value is not None:
                    trace.extras.setdefault(name, value)
        if trace.result is None:
            self._decide(error)
        if error is not None and is_a(error, Exception) and trace.result != CANCELLED:
            log.error("request failed", exc_info=error, extra={"method": self._method, "route": route})
        trace.end(ended_ns)
        self._active.dec()
        if status is None and error is not None and trace.result != CANCELLED:
            status = _FIRST_FAILURE  # as the server responds
        series = duration_seconds.labels(self._method, route or "", "" if status is None else str(status))
        series.observe((ended_ns - trace.started_ns) / 1e9, {"trace_id": trace.trace_id})

    def note_logged(self) -> None:
        """Notes that its exception was taken with its traceback: others need not log that again."""
        self.logged_ns = monotonic_ns()

    def trace_to_tell(self, trace_id: str | None) -> str | None:
        """Returns the id of its trace, for a record that tells of its exception again soon, and in no other trace."""
        is_soon = self.logged_ns and monotonic_ns() - self.logged_ns < _SOON_NS
        return self.trace.trace_id if is_soon and trace_id in (None, self.trace.trace_id) else None

    def _decide(self, error: BaseException | None) -> None:
        trace, status = self.trace, self.status
        if self.is_gone and not self.ended_ns and (error is None or _is_of_departure(error)):
            trace.fail(CANCELLED)
        elif error is not None:
            trace.fail_with(error)
        elif not self.ended_ns:
            trace.fail("internal_error", "the response was never completed")
        elif status is not None and status >= _FIRST_FAILURE:
            trace.fail(_RESULTS.get(status, "internal_error"), f"HTTP {status}")


def status_of(value: object) -> int | None:
    """Returns the status of a response, or None if it is no number: an application may send anything."""
    return int(value) if type(value) is int or isinstance(value, HTTPStatus) else None


def begin(
    method: object, path: str, parents: Sequence[str], states: Sequence[str], templates: KnownTemplates, *, joins: bool
) -> Request:
    """Starts the trace of a request and makes it current.

    Args:
        method: the request's.
        path: of the request; compared with templates, never recorded.
        parents: its `traceparent` headers; one that is malformed is ignored and counted, and so are several.
        states: its `tracestate` headers.
        templates: of the routes that are known.
        joins: whether the request continues its caller's trace; else it gets a link to that.
    """
    known = method if isinstance(method, str) and method in _METHODS else _OTHER
    caller = _caller(parents) if parents else None
    name = _name(known, templates.guess(path))
    if caller is None or not joins:
        trace = new_trace(name)
        if caller is not None:
            trace.extras["link"] = {"trace_id": caller.trace_id, "span_id": caller.span_id}
    else:
        trace = new_trace(name, trace_id=caller.trace_id, parent_id=caller.span_id)
        trace.is_random, trace.tracestate = caller.is_random, read_tracestate(states)
    return Request(known, trace)


def _caller(parents: Sequence[str]) -> TraceParent | None:
    caller = parse(parents[0]) if len(parents) == 1 else None
    if caller is None:
        metrics.trace_headers_rejected_total.labels(TRACEPARENT).inc()
    return caller


def note_recorder(serve: CodeType) -> None:
    """Notes that code logs each exception that passes it; its local `serving` is the request, or has it."""
    recorders[serve] = _request_in


def _request_in(frame: FrameType) -> Request | None:
    serving = frame.f_locals.get("serving")
    request = getattr(serving, "request", serving)
    return request if isinstance(request, Request) else None


def _name(method: str, route: str | None) -> str:
    shown = "HTTP" if method == _OTHER else method
    # Behind an `@` would be the version of a capability.
    return shown if route is None else f"{shown} {route.replace('@', '%40')}"


def _is_of_departure(error: BaseException) -> bool:
    """Returns whether an exception is how servers and frameworks tell that the client has left."""
    return is_a(error, OSError) or type(error).__name__ == "ClientDisconnect" or not is_a(error, Exception)
