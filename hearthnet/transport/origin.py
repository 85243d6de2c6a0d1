"""Where a call comes from: the trace it belongs to, and the caller's span in it.

The request id is the trace id: it is signed. `traceparent` is not, so it never overrules it:

    traceparent names the same trace      its span becomes the trace's parent
    it names another one                  the trace keeps a link to that span
    the request id is no id at all        the trace id is that of traceparent, or a fresh one

What is malformed is ignored and counted, and appears in no record: a header may hold anything.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from starlette.datastructures import Headers

from hearthnet.observability import metrics
from hearthnet.observability.ids import new_trace_id
from hearthnet.observability.traceparent import TRACEPARENT, TraceParent, parse
from hearthnet.transport.signing import REQUEST_ID, trace_id_of

__all__ = ["Origin", "origin_of", "trace_headers_rejected_total"]

trace_headers_rejected_total: Final = metrics.counter(
    "hearthnet_trace_headers_rejected_total",
    "Headers of calls that named no valid trace, or more than one.",
    ["header"],
)


class Origin(NamedTuple):
    """The trace of a call; `link` is a span of another trace."""

    trace_id: str
    parent_id: str | None = None
    link: TraceParent | None = None


def origin_of(headers: Headers) -> Origin:
    """Returns where the request with these headers comes from. Never raises."""
    own = _request_id(headers)
    caller = _caller(headers)
    if caller is None:
        return Origin(own or new_trace_id())
    if own is None or own == caller.trace_id:
        return Origin(caller.trace_id, caller.span_id)
    return Origin(own, link=caller)


def _request_id(headers: Headers) -> str | None:
    given = headers.get(REQUEST_ID, "")
    trace_id = trace_id_of(given)
    if given and trace_id is None:
        trace_headers_rejected_total.labels(REQUEST_ID).inc()
    return trace_id


def _caller(headers: Headers) -> TraceParent | None:
    given = headers.getlist(TRACEPARENT)
    if not given:
        return None
    caller = parse(given[0]) if len(given) == 1 else None
    if caller is None:
        trace_headers_rejected_total.labels(TRACEPARENT).inc()
    return caller
