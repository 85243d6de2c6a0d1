"""The HTTP routes. Each is thin and calls one function; `access` has the rules who may use them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from hearthnet.bus.capability import RouteRequest, is_capability_name, parse_version
from hearthnet.bus.ratelimit import RateLimitedError
from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.errors import WireError
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import metrics
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.store.reader import TraceFilter
from hearthnet.observability.traces.traceparent import TRACEPARENT, TRACESTATE, TraceParent, parse, read_tracestate
from hearthnet.transport.api import openapi, strict_json
from hearthnet.transport.api.error_body import error_body, wire_error_of
from hearthnet.transport.api.models import CheckOut, LiveOut, ReadyOut, StatusOut, TraceOut
from hearthnet.transport.api.streaming import EventStream, wait_for_disconnect
from hearthnet.transport.auth.access import (
    NodeServices,
    Services,
    SignedRoute,
    loopback_only,
    members_or_loopback,
    scrapers,
    services_of,
    signer_for,
)
from hearthnet.transport.auth.signing import (
    CAPABILITY,
    REQUEST_ID,
    SENDER,
    Envelope,
    Signer,
    read_claim,
    trace_id_of,
    verify_claim,
)

__all__ = [
    "NodeServices",
    "Origin",
    "Services",
    "calls",
    "cancel_on_disconnect",
    "loopback_only",
    "members_or_loopback",
    "operations",
    "origin_of",
    "services_of",
    "telemetry",
]

T = TypeVar("T")

_ID_START: Final = "^[0-9A-Z]{1,26}$"
_PATIENCE_S: Final = 0.05  # most calls have ended by then; others notice a client that left this much later


class Origin(NamedTuple):
    """The trace that a call belongs to; `link` is a span of another trace. The others are as in `RouteRequest`."""

    trace_id: str
    parent_id: str | None = None
    link: TraceParent | None = None
    is_random: bool = False
    tracestate: str = ""


def origin_of(headers: Headers) -> Origin:
    """Returns the trace that a request with these headers belongs to. Never raises.

    The request id is the trace id: it is signed. `traceparent` is not, so it never overrules it:

        traceparent names the same trace      its span becomes the trace's parent
        it names another one                  the trace gets a link to that span
        the request id is invalid             the trace id is that of traceparent, or a new one

    Malformed headers are ignored and counted, and never recorded: they may contain anything.
    """
    own = _request_id(headers)
    caller = _caller(headers)
    if caller is None:
        return Origin(own or new_trace_id(), is_random=own is None)
    if own is None or own == caller.trace_id:
        state = read_tracestate(headers.getlist(TRACESTATE))
        return Origin(caller.trace_id, caller.span_id, is_random=caller.is_random, tracestate=state)
    return Origin(own, link=caller)


def _request_id(headers: Headers) -> str | None:
    given = headers.get(REQUEST_ID, "")
    trace_id = trace_id_of(given)
    if given and trace_id is None:
        metrics.trace_headers_rejected_total.labels(REQUEST_ID).inc()
    return trace_id


def _caller(headers: Headers) -> TraceParent | None:
    given = headers.getlist(TRACEPARENT)
    if not given:
        return None
    caller = parse(given[0]) if len(given) == 1 else None
    if caller is None:
        metrics.trace_headers_rejected_total.labels(TRACEPARENT).inc()
    return caller


# The capability label of requests that reached no capability.
REFUSED: Final = "other"


class _CallRoute(APIRoute):
    """A route whose function takes the request itself: resolving parameters costs a twelfth of a call."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the function of the route."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


calls = APIRouter(route_class=_CallRoute)
telemetry = APIRouter(route_class=SignedRoute, dependencies=[Depends(members_or_loopback)], responses=openapi.TELEMETRY)
operations = APIRouter(responses=openapi.OPEN)


@calls.post("/bus/v1/call", response_model=None, responses=openapi.CALL, openapi_extra=openapi.SIGNED_CALL)
async def call(request: Request) -> Response:
    """Calls a capability: signed headers, body `{"params": …, "input": …}`; returns JSON or server-sent events."""
    services = services_of(request)
    origin = origin_of(request.headers)
    headers = {REQUEST_ID: origin.trace_id}
    signer: Signer | None = None
    try:
        services.bus.check_rate(request.headers.get(SENDER, ""), request.headers.get(CAPABILITY, ""), is_claimed=True)
        # Non-members are refused by their headers alone: their body is neither awaited nor parsed.
        claim = read_claim(request.headers, services.manifest())
        envelope = verify_claim(claim, strict_json.parse(await request.body()), services.replays)
        signer = signer_for(services, claim.signature)
        route = _route(request, envelope, origin)
        services.seen(route.caller)
        services.bus.check_rate(route.caller, route.capability)
    except ClientDisconnect:
        return Response(status_code=400)  # the client has gone
    except WireError as error:
        # Refused before it reached the bus: only counted, so that a flood of these cannot evict traces.
        metrics.requests_total.labels(REFUSED, error.code).inc()
        if isinstance(error, RateLimitedError) and error.is_dropped:
            headers["Connection"] = "close"  # a flooding client pays for a new connection each time
        return _refused(error, headers, signer)
    try:
        result = await cancel_on_disconnect(request.receive, services.bus.handle_call(route))
    except ClientDisconnect:
        return Response(status_code=400)
    except BaseException as error:  # a handler may raise anything; the caller still gets a response  # noqa: BLE001
        return _refused(wire_error_of(error), headers, signer)
    if isinstance(result, dict):
        return _signed(Response(orjson.dumps(result), media_type="application/json", headers=headers), signer)
    return EventStream(result, headers, signer)


async def cancel_on_disconnect(receive: Receive, work: Awaitable[T]) -> T:
    """Returns the result of `work`, or cancels it when the client closes its connection first.

    Learning of a closed connection takes a task. Calls that end within `_PATIENCE_S` never pay for one.

    Args:
        receive: of a request whose body was read.
        work: runs in the current task.

    Raises:
        ClientDisconnect: raised when the client has left.
    """
    worker = asyncio.current_task()
    assert worker is not None
    watcher: asyncio.Task[None] | None = None
    is_over = has_left = False

    def on_disconnect(_: object) -> None:
        nonlocal has_left
        if not is_over and watcher is not None and not watcher.cancelled() and watcher.exception() is None:
            has_left = True
            worker.cancel()

    def watch() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(wait_for_disconnect(receive), name="disconnect-watcher")
        watcher.add_done_callback(on_disconnect)

    patience = asyncio.get_running_loop().call_later(_PATIENCE_S, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if not has_left or worker.uncancel() > 0:
            raise  # cancelled from outside: the server is stopping
        raise ClientDisconnect from None
    finally:
        is_over = True
        patience.cancel()
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})


def _refused(error: WireError, headers: dict[str, str], signer: Signer | None) -> Response:
    return _signed(JSONResponse(error_body(error), error.status, headers=headers), signer)


def _signed(response: Response, signer: Signer | None) -> Response:
    """Returns the response, signed if the request was verified."""
    return response if signer is None else signer.signed(response)


def _route(request: Request, envelope: Envelope, origin: Origin) -> RouteRequest:
    """Returns the signed request."""
    if not is_capability_name(envelope.capability):
        raise WireError("bad_request", "not a valid capability name")
    body = envelope.body
    if not isinstance(body, dict) or not set(body) <= {"params", "input"}:
        raise WireError("bad_request", "the body must be an object with params and input")
    wants_stream = "text/event-stream" in request.headers.get("accept", "")
    if wants_stream and request.scope["http_version"] == "1.0":
        raise WireError("bad_request", "a stream needs HTTP/1.1: HTTP/1.0 has no chunks")
    return RouteRequest(
        capability=envelope.capability,
        version_req=parse_version(envelope.version),
        body={"params": {}, **body},
        caller=envelope.sender,
        trace_id=origin.trace_id,
        parent_id=origin.parent_id,
        link=origin.link,
        is_random=origin.is_random,
        tracestate=origin.tracestate,
        stream=wants_stream,
    )


@telemetry.get("/trace", response_model=list[TraceOut])
@telemetry.get("/trace/recent", response_model=list[TraceOut])
def recent_traces(
    services: NodeServices,
    n: Annotated[int, Query(ge=1, le=TRACE_RING_BUFFER, description="maximum number")] = 100,
    capability: Annotated[str | None, Query(max_length=64, description="its name")] = None,
    result: Annotated[str | None, Query(max_length=32, description="exact, or `failed` for every failure")] = None,
    min_ms: Annotated[float | None, Query(ge=0, description="at least this long, milliseconds")] = None,
    since: Annotated[datetime | None, Query(description="ended at or after, ISO 8601")] = None,
    until: Annotated[datetime | None, Query(description="ended before, ISO 8601")] = None,
    program: Annotated[str | None, Query(max_length=64, description="only what this program recorded")] = None,
    trace: Annotated[str | None, Query(pattern=_ID_START, description="a trace's id, or its beginning")] = None,
) -> list[dict[str, Any]]:
    """The newest traces of all programs, newest first, including those of the node that are not committed yet."""
    wanted = TraceFilter(capability, result, min_ms, _to_us(since), trace, program, until_us=_to_us(until))
    return _with_programs(services, n, wanted)


@telemetry.get("/trace/{trace_id}", response_model=list[TraceOut])
def one_trace(
    trace_id: Annotated[str, PathParameter(description="a ULID, or the 32 hexadecimal digits of a W3C trace id")],
    services: NodeServices,
) -> list[dict[str, Any]]:
    """All records of one distributed trace on this node, newest first."""
    known = trace_id_of(trace_id)
    if known is None:
        raise WireError("bad_request", "a trace id is a ULID of 26 characters, or 32 hexadecimal digits")
    found = _with_programs(services, TRACE_RING_BUFFER, TraceFilter(trace_id=known))
    if not found:
        raise WireError("not_found", "no such trace in the ring")
    return found


def _with_programs(services: NodeServices, n: int, wanted: TraceFilter) -> list[dict[str, Any]]:
    traces = services.telemetry.traces(n, wanted)
    programs = services.telemetry.programs({trace.run_id for trace in traces})
    return [{**trace.as_dict(), "program": programs.get(trace.run_id)} for trace in traces]


def _to_us(moment: datetime | None) -> int | None:
    """Returns UTC microseconds; a time without a zone is taken as UTC."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6)


@operations.get("/metrics", response_class=Response, responses=openapi.METRICS, dependencies=[Depends(scrapers)])
def prometheus(request: Request) -> Response:
    """All metrics in the Prometheus text format, or in OpenMetrics, with exemplars, where `Accept` prefers that."""
    text, content_type = metrics.exposition(",".join(request.headers.getlist("accept")))
    return Response(text, headers={"Content-Type": content_type, "Vary": "Accept"})


@operations.get("/health")
async def live() -> LiveOut:
    """Responds while the process runs."""
    return LiveOut()


@operations.get("/ready", response_model=ReadyOut, responses=openapi.READY)
async def ready(services: NodeServices) -> Response:
    """200 when at least one capability can be called, else 503."""
    count = len(services.bus.registry)
    return JSONResponse({"ready": count > 0, "capabilities": count}, 200 if count else 503)


@operations.get("/manifest", response_model=Manifest)
async def manifest(services: NodeServices) -> Manifest:
    """The community's signed manifest."""
    return services.manifest()


@operations.get("/status", response_model=StatusOut, dependencies=[Depends(loopback_only)])
def status(services: NodeServices) -> dict[str, Any]:
    """A summary of the node, for its own tools."""
    return services.status()


@operations.get("/doctor", response_model=list[CheckOut], dependencies=[Depends(loopback_only)])
def doctor(
    services: NodeServices,
    check: Annotated[list[str], Query(description="run only these")] = [],  # noqa: B006  # FastAPI copies it
) -> list[dict[str, Any]]:
    """The findings of the doctor, run inside the node."""
    return services.doctor(check)
