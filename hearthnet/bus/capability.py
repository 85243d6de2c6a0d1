"""Capability descriptors, and requests to call one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from hearthnet.constants import (
    MAX_CAPABILITY_CHARS,
    RESERVED_CAPABILITY_PREFIXES,
    RPC_DEFAULT_TIMEOUT_SECONDS,
)
from hearthnet.errors import WireError
from hearthnet.observability.traces.traceparent import TraceParent

__all__ = ["CapabilityDescriptor", "Frames", "Handler", "RouteRequest", "is_capability_name", "parse_version"]

Trust = Literal["member", "trusted", "anchor", "self"]
Frames = AsyncIterator[dict[str, Any]]
Handler = Callable[["RouteRequest"], Awaitable[dict[str, Any] | Frames] | Frames]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_VERSION: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


def is_capability_name(text: str) -> bool:
    """Returns True if `text` is a dotted lower-case name of allowed length."""
    return len(text) <= MAX_CAPABILITY_CHARS and _NAME.fullmatch(text) is not None


def parse_version(text: str) -> tuple[int, int]:
    """Returns `(major, minor)`.

    Raises:
        WireError: raised as `bad_request` when the text is not `X.Y`.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise WireError("bad_request", "a version must have the form X.Y")
    return int(match[1]), int(match[2])


@dataclass(frozen=True, slots=True)
class CapabilityDescriptor:
    """A named, versioned capability.

    Raises:
        ValueError: raised when the name is malformed or has a prefix that is not allowed.
    """

    name: str
    version: tuple[int, int]
    stability: Literal["stable", "beta", "experimental"] = "experimental"
    request_schema: Mapping[str, Any] = field(default_factory=dict)
    response_schema: Mapping[str, Any] = field(default_factory=dict)
    stream_schema: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    max_concurrent: int = 1
    trust_required: Trust = "member"
    timeout_seconds: float = RPC_DEFAULT_TIMEOUT_SECONDS
    idempotent: bool = False

    def __post_init__(self) -> None:
        if not is_capability_name(self.name):
            raise ValueError(f"not a capability name: {self.name!r}")
        if self.name.partition(".")[0] not in (*RESERVED_CAPABILITY_PREFIXES, "experimental"):
            raise ValueError(f"{self.name}: names outside the reserved prefixes must begin with 'experimental.'")

    @property
    def version_text(self) -> str:
        """The version as `X.Y`."""
        return f"{self.version[0]}.{self.version[1]}"

    def serves(self, wanted: tuple[int, int]) -> bool:
        """Returns True if this version serves a request for `wanted`: same major, same or newer minor."""
        return self.version[0] == wanted[0] and self.version[1] >= wanted[1]


@dataclass(slots=True)
class RouteRequest:
    """One call of a capability.

    Attributes:
        capability: the name.
        version_req: the requested version.
        body: `{"params": …, "input": …}`.
        caller: full node id of the caller.
        trace_id: the caller's ULID, or None.
        parent_id: the caller's span in that trace, or None.
        link: a span of another trace that caused the call, or None.
        session_id: groups calls of one conversation, or None.
        deadline_ms: how long the caller will wait, from now; None: as long as the capability allows.
        stream: whether the caller accepts a response in frames.
    """

    capability: str
    version_req: tuple[int, int]
    body: dict[str, Any]
    caller: str
    trace_id: str | None = None
    session_id: str | None = None
    deadline_ms: float | None = None
    stream: bool = False
    parent_id: str | None = None
    link: TraceParent | None = None
