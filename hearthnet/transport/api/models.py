"""Pydantic models of the responses; the OpenAPI document is generated from them."""

from __future__ import annotations

from typing import Annotated, Any, Final, get_type_hints

from pydantic import BaseModel, Field, create_model

from hearthnet.errors import HTTP_STATUS
from hearthnet.observability.records.stored import TraceRecord

__all__ = [
    "CapabilityOut",
    "CapabilityStatsOut",
    "CheckOut",
    "ErrorOut",
    "LiveOut",
    "ReadyOut",
    "SpanOut",
    "StatusOut",
    "TraceOut",
]


class ErrorOut(BaseModel):
    """A wire error."""

    error: Annotated[str, Field(json_schema_extra={"enum": sorted(HTTP_STATUS)})]
    message: str
    retry_after_ms: Annotated[int, Field(ge=0)] | None = None
    hint: str | None = None


class SpanOut(BaseModel):
    """A span of a trace."""

    id: str
    parent: str | None
    name: str
    offset_ms: float
    duration_ms: float
    status: str
    extras: dict[str, Any]


_DECODED: Final = {"spans": list[SpanOut], "extras": dict[str, Any]}  # JSON in the row
_COLUMNS: Final[dict[str, Any]] = {
    name: (_DECODED.get(name, kind), ...) for name, kind in get_type_hints(TraceRecord).items()
}
TraceOut = create_model("TraceOut", **_COLUMNS, program=(str | None, ...))
TraceOut.__doc__ = "A trace: the columns of its row, with its spans as a list, and the program that recorded it."


class LiveOut(BaseModel):
    """The process responds."""

    status: str = "ok"


class ReadyOut(BaseModel):
    """Whether any capability can be called."""

    ready: bool
    capabilities: int


class CapabilityOut(BaseModel):
    """An offered capability with its health."""

    capability: str
    version: str
    stability: str
    trust_required: str
    running: int
    max_concurrent: int
    calls: int
    success_rate: float | None
    p50_ms: float | None
    p99_ms: float | None
    quarantined: bool


class CapabilityStatsOut(BaseModel):
    """A capability's statistics over the node's calls in the ring: the columns of the view `capability_stats`."""

    capability: str
    count: int
    errors: int
    error_rate: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    last_ts: str


class StatusOut(BaseModel):
    """The node at a glance."""

    node_id: str
    short_id: str
    version: str
    community_id: str
    community: str
    run_id: str
    pid: int
    uptime_s: float
    port: int
    calls_in_flight: int
    event_log_size: int
    event_log_head: int
    telemetry: dict[str, Any]
    disk: dict[str, int]
    capabilities: list[CapabilityOut]
    ring: list[CapabilityStatsOut]


class CheckOut(BaseModel):
    """A finding of the doctor."""

    name: str
    status: str
    ok: bool
    detail: str
    fix: str | None
    evidence: dict[str, Any]
    duration_ms: float
