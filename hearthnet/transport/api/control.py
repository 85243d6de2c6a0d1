"""Routes for this machine's own tools: change log levels, and record the bodies of calls for a while.

A browser on this machine is not one of these tools. `Guard` refuses requests from pages of other origins; the routes
here also refuse pages of the node's own origin and addresses typed in.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from hearthnet.bus.bus import CapabilityBus
from hearthnet.errors import WireError
from hearthnet.observability.logs.levels import DEFAULT_FOR_S, MAX_FOR_S, Levels, LogLevelError
from hearthnet.observability.traces.bodies import MAX_FOR_S as MAX_BODIES_FOR_S
from hearthnet.transport.api import openapi, strict_json
from hearthnet.transport.api.routes import NodeServices, loopback_only

__all__ = ["control"]


class LevelIn(BaseModel):
    """A level for a logger; without a level the override ends, without a logger all overrides end."""

    model_config = ConfigDict(extra="forbid")

    logger: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    level: Literal["debug", "info", "warning", "error", "critical"] | None = None
    for_s: Annotated[float, Field(gt=0, le=MAX_FOR_S, description="seconds until it reverts")] = DEFAULT_FOR_S


class LevelOut(BaseModel):
    """A logger with a temporary level."""

    logger: str
    level: str
    was: str
    left_s: float


def no_browser(request: Request) -> None:
    """Admits requests that no browser sends: a browser adds at least one of these headers.

    Raises:
        HTTPException: raised with 403 for all others.
    """
    if "origin" in request.headers or "sec-fetch-site" in request.headers:
        raise HTTPException(403, "this route is for the node's own tools, not for browsers")


async def strict_body(request: Request) -> None:
    """Admits a body that is strict JSON; the framework's own parser accepts more.

    Raises:
        WireError: raised as `bad_request` for all others.
    """
    if request.method == "POST":
        strict_json.parse(await request.body())


def levels_of(request: Request) -> Levels:
    """Returns the levels of the node's loggers."""
    levels: Levels = request.app.state.levels
    return levels


NodeLevels = Annotated[Levels, Depends(levels_of)]
_TOOLS_ONLY = (Depends(loopback_only), Depends(no_browser), Depends(strict_body))

control = APIRouter(prefix="/control", dependencies=_TOOLS_ONLY, responses=openapi.CONTROL)


@control.get("/log-level", response_model=list[LevelOut])
def log_levels(levels: NodeLevels) -> list[dict[str, Any]]:
    """The loggers with a temporary level."""
    return [asdict(override) for override in levels.current()]


@control.post("/log-level", response_model=list[LevelOut])
def set_log_level(wanted: LevelIn, levels: NodeLevels) -> list[dict[str, Any]]:
    """Changes a logger's level for a while, or ends that; responds with all changed loggers."""
    if wanted.logger is None and wanted.level is not None:
        raise WireError("bad_request", "a level needs a logger")
    try:
        if wanted.logger is not None and wanted.level is not None:
            levels.set(wanted.logger, wanted.level, wanted.for_s)
        else:
            levels.reset(wanted.logger)
    except LogLevelError as error:
        raise WireError("bad_request", f"{error.message}; {error.hint}") from error
    return log_levels(levels)


class BodiesIn(BaseModel):
    """A capability and a time; without a time recording ends, without a capability for all of them."""

    model_config = ConfigDict(extra="forbid")

    capability: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    for_s: Annotated[float, Field(gt=0, le=MAX_BODIES_FOR_S, description="seconds until it ends by itself")] | None = (
        None
    )


class BodiesOut(BaseModel):
    """A capability whose bodies are being recorded."""

    capability: str
    left_s: float


@control.get("/record-bodies", response_model=list[BodiesOut])
async def recorded_bodies(services: NodeServices) -> list[dict[str, Any]]:
    """The capabilities whose bodies are being recorded."""
    return _present(services.bus)


@control.post("/record-bodies", response_model=list[BodiesOut])
async def record_bodies(wanted: BodiesIn, services: NodeServices) -> list[dict[str, Any]]:
    """Starts or ends the recording of a capability's bodies; responds with all that are being recorded."""
    bus = services.bus
    if wanted.for_s is None:
        bus.bodies.refuse(wanted.capability)
        return _present(bus)
    if wanted.capability is None:
        raise WireError("bad_request", "a time needs a capability")
    if wanted.capability not in bus.registry:
        raise WireError("not_found", "no such capability here; see: hearthnet caps")
    try:
        bus.bodies.allow(wanted.capability, wanted.for_s)
    except ValueError as error:
        raise WireError("bad_request", str(error)) from error
    return _present(bus)


def _present(bus: CapabilityBus) -> list[dict[str, Any]]:
    return [{"capability": name, "left_s": left_s} for name, left_s in sorted(bus.bodies.current().items())]
