"""The routes: thin, each calls one thing. Who may: calls are signed, telemetry and tools are for this machine alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import RouteRequest, is_capability_name, parse_version
from hearthnet.bus.ratelimit import RateLimitedError
from hearthnet.constants import TRACE_RING_BUFFER
from hearthnet.errors import WireError
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import metrics
from hearthnet.observability.store.reader import TraceFilter
from hearthnet.observability.telemetry import Telemetry
from hearthnet.transport import described, strict_json
from hearthnet.transport.leaving import unless_caller_leaves
from hearthnet.transport.models import CheckOut, LiveOut, ReadyOut, StatusOut, TraceOut
from hearthnet.transport.origin import Origin, origin_of
from hearthnet.transport.refusal import error_body
from hearthnet.transport.signing import CAPABILITY, REQUEST_ID, SENDER, trace_id_of, verify_request
from hearthnet.transport.streaming import EventStream

__all__ = ["Services", "calls", "operations", "telemetry"]


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes need of the node; `seen` takes who called, `status` and `doctor` may take seconds."""

    bus: CapabilityBus
    telemetry: Telemetry
    manifest: Callable[[], Manifest]
    seen: Callable[[str], None]
    status: Callable[[], dict[str, Any]]
    doctor: Callable[[list[str]], list[dict[str, Any]]]
    metrics_loopback_only: bool = False


def services_of(request: Request) -> Services:
    """Returns what the node gave its application."""
    services: Services = request.app.state.services
    return services


def loopback_only(request: Request) -> None:
    """Lets in requests from this machine.

    Raises:
        WireError: raised as `unauthorized` for all others.
    """
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        address = ipaddress.ip_address("0.0.0.0")  # noqa: S104  # stands for "not loopback"
    mapped = getattr(address, "ipv4_mapped", None)
    # A peer that has the address it called at is this machine too: a node may listen on that address alone.
    own = (request.scope.get("server") or ("",))[0]
    if not (mapped or address).is_loopback and (host != own or not host):
        raise WireError("unauthorized", "this answers on the node's own machine only")


def scrapers(request: Request) -> None:
    """Lets in who may read the metrics: everybody, or with `observability.metrics_loopback_only` this machine.

    Raises:
        WireError: raised as `unauthorized` for all others.
    """
    if services_of(request).metrics_loopback_only:
        loopback_only(request)


# The capability label of what no capability was called for.
REFUSED: Final = "other"


async def _services(request: Request) -> Services:
    # Async, though it waits for nothing: the framework sends a plain function to a thread, at twice the cost of a call.
    return services_of(request)


NodeServices = Annotated[Services, Depends(_services)]

calls = APIRouter()
telemetry = APIRouter(dependencies=[Depends(loopback_only)], responses=described.TELEMETRY)
operations = APIRouter(responses=described.OPEN)


@calls.post("/bus/v1/call", response_model=None, responses=described.CALL, openapi_extra=described.SIGNED_CALL)
async def call(request: Request, services: NodeServices) -> Response:
    """Calls a capability: signed headers, body `{"params": …, "input": …}`; answers JSON or server-sent events."""
    origin = origin_of(request.headers)
    headers = {REQUEST_ID: origin.trace_id}
    try:
        services.bus.check_rate(request.headers.get(SENDER, ""), request.headers.get(CAPABILITY, ""), is_claimed=True)
        route = _route(request, await request.body(), origin, services.manifest())
        services.seen(route.caller)
        services.bus.check_rate(route.caller, route.capability)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody is there to read it
    except WireError as error:
        # Refused before the bus saw it: a stranger's flood must not push traces out, so it is only counted.
        metrics.requests_total.labels(REFUSED, error.code).inc()
        if isinstance(error, RateLimitedError) and error.is_dropped:
            headers["Connection"] = "close"  # who floods pays for a new connection each time
        return JSONResponse(error_body(error), error.status, headers=headers)
    try:
        answer = await unless_caller_leaves(request.receive, services.bus.handle_call(route))
    except ClientDisconnect:
        return Response(status_code=400)
    except WireError as error:
        return JSONResponse(error_body(error), error.status, headers=headers)
    if isinstance(answer, dict):
        return Response(orjson.dumps(answer), media_type="application/json", headers=headers)
    return EventStream(answer, headers)


def _route(request: Request, raw: bytes, origin: Origin, manifest: Manifest) -> RouteRequest:
    """Returns the request that was signed."""
    body = strict_json.parse(raw)
    envelope = verify_request(request.headers, body, manifest)
    if not is_capability_name(envelope.capability):
        raise WireError("bad_request", "not the name of a capability")
    if not isinstance(body, dict) or not set(body) <= {"params", "input"}:
        raise WireError("bad_request", "the body is an object with params and input")
    return RouteRequest(
        capability=envelope.capability,
        version_req=parse_version(envelope.version),
        body={"params": {}, **body},
        caller=envelope.sender,
        trace_id=origin.trace_id,
        parent_id=origin.parent_id,
        link=origin.link,
        stream="text/event-stream" in request.headers.get("accept", ""),
    )


@telemetry.get("/trace", response_model=list[TraceOut])
@telemetry.get("/trace/recent", response_model=list[TraceOut])
def recent_traces(
    services: NodeServices,
    n: Annotated[int, Query(ge=1, le=TRACE_RING_BUFFER, description="how many at most")] = 100,
    capability: Annotated[str | None, Query(max_length=64)] = None,
    result: Annotated[str | None, Query(max_length=32, description="exact, or `failed` for every failure")] = None,
    min_ms: Annotated[float | None, Query(ge=0, description="at least this long, milliseconds")] = None,
    since: Annotated[datetime | None, Query(description="started at or after, ISO 8601")] = None,
) -> list[dict[str, Any]]:
    """The newest traces, newest first, what is not committed yet included."""
    wanted = TraceFilter(capability, result, min_ms, None if since is None else _to_us(since))
    return [trace.as_dict() for trace in services.telemetry.traces(n, wanted)]


@telemetry.get("/trace/{trace_id}", response_model=list[TraceOut])
def one_trace(trace_id: str, services: NodeServices) -> list[dict[str, Any]]:
    """Every visit of one distributed trace to this node, newest first."""
    known = trace_id_of(trace_id)
    if known is None:
        raise WireError("bad_request", "a trace id is a ULID of 26 characters, or 32 hexadecimal digits")
    found = services.telemetry.traces(TRACE_RING_BUFFER, TraceFilter(trace_id=known))
    if not found:
        raise WireError("not_found", "no such trace in the ring")
    return [trace.as_dict() for trace in found]


def _to_us(moment: datetime) -> int:
    """Returns UTC microseconds; a time without a zone is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1e6)


@operations.get("/metrics", response_class=Response, responses=described.PLAIN_TEXT, dependencies=[Depends(scrapers)])
def prometheus() -> Response:
    """All metrics in the Prometheus text format."""
    text, content_type = metrics.exposition()
    return Response(text, headers={"Content-Type": content_type})


@operations.get("/health")
async def live() -> LiveOut:
    """Answers while the process does."""
    return LiveOut()


@operations.get("/ready", response_model=ReadyOut, responses=described.READY)
async def ready(services: NodeServices) -> Response:
    """200 when one capability or more can be called, else 503."""
    count = len(services.bus.registry)
    return JSONResponse({"ready": count > 0, "capabilities": count}, 200 if count else 503)


@operations.get("/manifest", response_model=Manifest)
async def manifest(services: NodeServices) -> Manifest:
    """The community's signed manifest."""
    return services.manifest()


@operations.get("/status", response_model=StatusOut, dependencies=[Depends(loopback_only)])
def status(services: NodeServices) -> dict[str, Any]:
    """The node at a glance, for its own tools."""
    return services.status()


@operations.get("/doctor", response_model=list[CheckOut], dependencies=[Depends(loopback_only)])
def doctor(
    services: NodeServices,
    check: Annotated[list[str], Query(description="run these alone")] = [],  # noqa: B006  # FastAPI copies it
) -> list[dict[str, Any]]:
    """The findings of the doctor, run inside the node."""
    return services.doctor(check)
