"""The route by which an operator of this machine has the bodies of one capability's calls recorded, for a while."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from hearthnet.bus.bus import CapabilityBus
from hearthnet.errors import WireError
from hearthnet.observability.bodies import MAX_FOR_S
from hearthnet.transport import described
from hearthnet.transport.control import TOOLS_ONLY
from hearthnet.transport.routes import NodeServices

__all__ = ["control_bodies"]


class BodiesIn(BaseModel):
    """A capability and for how long; no time: off, and without a capability all of them."""

    model_config = ConfigDict(extra="forbid")

    capability: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    for_s: Annotated[float, Field(gt=0, le=MAX_FOR_S, description="seconds until it ends by itself")] | None = None


class BodiesOut(BaseModel):
    """A capability whose bodies are recorded for the time being."""

    capability: str
    left_s: float


control_bodies = APIRouter(prefix="/control", dependencies=TOOLS_ONLY, responses=described.CONTROL)


@control_bodies.get("/record-bodies", response_model=list[BodiesOut])
async def recorded_bodies(services: NodeServices) -> list[dict[str, Any]]:
    """The capabilities whose bodies are recorded at present."""
    return _present(services.bus)


@control_bodies.post("/record-bodies", response_model=list[BodiesOut])
async def record_bodies(wanted: BodiesIn, services: NodeServices) -> list[dict[str, Any]]:
    """Has a capability's bodies recorded for a while, or no longer; answers with all that are recorded then."""
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
