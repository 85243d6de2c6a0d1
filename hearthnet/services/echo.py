"""`experimental.echo@1.0`: returns its input. For demonstrations and tests.

`delay_ms` waits first, `fail` ends with that error code, `frames` responds with a stream of that many frames.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from hearthnet.bus.capability import CapabilityDescriptor, Frames, RouteRequest
from hearthnet.errors import HTTP_STATUS, WireError
from hearthnet.observability.tracing import span

__all__ = ["DESCRIPTOR", "echo"]

_MAX_DELAY_MS: Final = 60_000
_MAX_FRAMES: Final = 1_000

DESCRIPTOR: Final = CapabilityDescriptor(
    name="experimental.echo",
    version=(1, 0),
    request_schema={
        "type": "object",
        "required": ["input"],
        "additionalProperties": False,
        "properties": {
            "params": {"type": "object"},
            "input": {
                "type": "object",
                "required": ["text"],
                "additionalProperties": False,
                "properties": {
                    "text": {"type": "string"},
                    "delay_ms": {"type": "number", "minimum": 0, "maximum": _MAX_DELAY_MS},
                    "fail": {"enum": [None, *HTTP_STATUS]},
                    "frames": {"type": "integer", "minimum": 0, "maximum": _MAX_FRAMES},
                },
            },
        },
    },
    response_schema={"type": "object", "required": ["text"]},
    stream_schema={"type": "object", "required": ["index", "text"]},
    max_concurrent=64,
    timeout_seconds=_MAX_DELAY_MS / 1_000 + 5,
    idempotent=True,
)


async def echo(request: RouteRequest) -> dict[str, Any] | Frames:
    """Returns the input, whole or in frames."""
    wanted = request.body["input"]
    if wanted.get("delay_ms"):
        with span("wait", delay_ms=wanted["delay_ms"]):
            await asyncio.sleep(wanted["delay_ms"] / 1_000)
    if wanted.get("frames"):
        return _frames(wanted)
    _fail_if_requested(wanted)
    return dict(wanted)


async def _frames(wanted: dict[str, Any]) -> Frames:
    for index in range(wanted["frames"]):
        yield {"index": index, "text": wanted["text"]}
        await asyncio.sleep(0)
    _fail_if_requested(wanted)


def _fail_if_requested(wanted: dict[str, Any]) -> None:
    if wanted.get("fail"):
        raise WireError(wanted["fail"], "simulated failure", asked_for=True)
