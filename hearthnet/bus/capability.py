"""Capabilities: their descriptors, requests to call one, and the registry of those offered, with their state.

The health of an offered one is the success rate of its last calls; it is quarantined if most of them fail.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from hearthnet.constants import (
    HEALTH_MIN_CALLS,
    HEALTH_QUARANTINE_SECONDS,
    HEALTH_QUARANTINE_THRESHOLD,
    HEALTH_WINDOW_CALLS,
    MAX_CAPABILITY_CHARS,
    RESERVED_CAPABILITY_PREFIXES,
    RPC_DEFAULT_TIMEOUT_SECONDS,
)
from hearthnet.errors import WireError, missing_extra
from hearthnet.observability import metrics
from hearthnet.observability.traces.traceparent import TraceParent

try:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
except ModuleNotFoundError as error:  # the first missing package when a node is imported
    raise missing_extra(error) or error from error

__all__ = [
    "CapabilityDescriptor",
    "Entry",
    "Frames",
    "Handler",
    "Health",
    "Registry",
    "RouteRequest",
    "is_capability_name",
    "parse_version",
]

Trust = Literal["member", "trusted", "anchor", "self"]
Frames = AsyncIterator[dict[str, Any]]
Handler = Callable[["RouteRequest"], Awaitable[dict[str, Any] | Frames] | Frames]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_VERSION: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")
# Their label is an offered capability, or `other` for names that callers invent.
_BY_CAPABILITY: Final = (
    metrics.requests_total,
    metrics.request_duration_ms,
    metrics.active_streams,
    metrics.rate_limited_total,
    metrics.capability_health_success_rate,
)


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
        is_random: whether the low 56 bits of `trace_id` are known to be random.
        tracestate: what the caller's other tracing tools say, to be passed on.
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
    is_random: bool = False
    tracestate: str = ""


class Health:
    """The health of one entry over its last 100 calls.

    If fewer than half of at least 20 succeeded, the entry is quarantined for 60 s. Then one probe call is admitted; it
    decides whether the quarantine ends or starts again.

    Args:
        clock: returns monotonic seconds; tests pass their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: deque[tuple[bool, float]] = deque()
        self._successes = 0  # among them, kept as a counter because every call needs the rate
        self._quarantined_until: float | None = None
        self._is_probing = False

    def admit(self) -> int:
        """Returns 0 if a call is admitted, else the milliseconds to wait before the next attempt."""
        if self._quarantined_until is None:
            return 0
        wait_s = self._quarantined_until - self._clock()
        if wait_s > 0:
            return max(1, round(wait_s * 1_000))
        if self._is_probing:
            return 1_000
        self._is_probing = True
        return 0

    def record(self, *, ok: bool, duration_ms: float, is_probe: bool = True) -> None:
        """Records the outcome of a call that counts for the entry's health.

        Args:
            ok: whether it succeeded.
            duration_ms: its duration.
            is_probe: False for a call that was admitted before a quarantine and ends during it: it is ignored.
        """
        if self.is_quarantined and not is_probe:
            return
        if self._is_probing:
            self._is_probing = False
            self._clear()
            self._quarantined_until = None if ok else self._clock() + HEALTH_QUARANTINE_SECONDS
        self._append(ok, duration_ms)
        rate = self.success_rate
        if rate is not None and len(self._calls) >= HEALTH_MIN_CALLS and rate < HEALTH_QUARANTINE_THRESHOLD:
            self._quarantined_until = self._clock() + HEALTH_QUARANTINE_SECONDS
            self._clear()

    def _append(self, ok: bool, duration_ms: float) -> None:
        if len(self._calls) == HEALTH_WINDOW_CALLS:
            self._successes -= self._calls.popleft()[0]
        self._calls.append((ok, duration_ms))
        self._successes += ok

    def _clear(self) -> None:
        self._calls.clear()
        self._successes = 0

    def skip(self) -> None:
        """Ignores a probe whose outcome does not count; the next call becomes the probe."""
        self._is_probing = False

    @property
    def is_quarantined(self) -> bool:
        """True while calls are refused."""
        return self._quarantined_until is not None

    @property
    def success_rate(self) -> float | None:
        """The share of successes, or None before the first call."""
        return self._successes / len(self._calls) if self._calls else None

    def quantile_ms(self, share: float) -> float | None:
        """Returns the `share` quantile of the durations, or None before the first call."""
        durations = sorted(duration for _, duration in self._calls)
        if not durations:
            return None
        # Nearest rank, as in the view `capability_stats`.
        return durations[max(0, math.ceil(share * len(durations)) - 1)]

    @property
    def calls(self) -> int:
        """The number of calls in the window."""
        return len(self._calls)


class Entry:
    """An offered capability: descriptor, handler, compiled schemas, health, and the number of running calls."""

    def __init__(self, descriptor: CapabilityDescriptor, handler: Handler) -> None:
        self.descriptor = descriptor
        self.handler = handler
        self.health = Health()
        self.running = 0
        Draft202012Validator.check_schema(descriptor.request_schema)
        Draft202012Validator.check_schema(descriptor.response_schema)
        Draft202012Validator.check_schema(descriptor.stream_schema)
        self._request = Draft202012Validator(descriptor.request_schema)
        self._response = Draft202012Validator(descriptor.response_schema)
        self._frame = Draft202012Validator(descriptor.stream_schema)

    def check_request(self, body: dict[str, Any]) -> None:
        """Raises WireError `schema_mismatch` when the body does not match the descriptor's schema."""
        problem = next(iter(self._request.iter_errors(body)), None)
        if problem is not None:
            path = "/".join(str(part) for part in problem.absolute_path) or "body"
            raise WireError("schema_mismatch", f"{path}: {_broken_rule(problem)[:200]}")

    def check_response(self, response: dict[str, Any]) -> None:
        """Raises WireError `internal_error` when a handler's response does not match its schema or is not JSON."""
        _check(self._response, response, "response")

    def check_frame(self, frame: dict[str, Any]) -> None:
        """Raises WireError `internal_error` when a frame does not match the schema or is not JSON."""
        _check(self._frame, frame, "frame")


def _broken_rule(problem: ValidationError) -> str:
    """Returns the rule that a body breaks. The library's own message quotes the body, and errors are recorded."""
    if problem.validator == "required":
        return problem.message  # names the missing property
    if problem.validator == "additionalProperties":
        return "unexpected properties"
    return f"{problem.validator} must be {problem.validator_value!r}"


def _check(schema: Draft202012Validator, made: object, what: str) -> None:
    if not schema.is_valid(made):
        raise WireError("internal_error", f"the capability's {what} does not match its schema")
    try:
        orjson.dumps(made)
    except (TypeError, ValueError) as error:  # checked here, while the call can still fail cleanly
        raise WireError("internal_error", f"the capability's {what} is not JSON") from error


class Registry:
    """Finds the entry for a name and a version."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Entry]] = {}

    def add(self, descriptor: CapabilityDescriptor, handler: Handler) -> Entry:
        """Offers a capability.

        Raises:
            ValueError: raised when that name and version is already offered.
        """
        if any(entry.descriptor.version == descriptor.version for entry in self._entries.get(descriptor.name, ())):
            raise ValueError(f"{descriptor.name}@{descriptor.version_text} is already offered")
        entry = Entry(descriptor, handler)
        entries = self._entries.setdefault(descriptor.name, [])
        entries.append(entry)
        # Newest first, so that the first match is the newest minor version.
        entries.sort(key=lambda item: item.descriptor.version, reverse=True)
        for instrument in _BY_CAPABILITY:
            instrument.allow("capability", [descriptor.name])
        return entry

    def find(self, name: str, wanted: tuple[int, int]) -> Entry:
        """Returns the newest entry that serves a request for `name` in version `wanted`.

        Raises:
            WireError: raised as `not_found`.
        """
        for entry in self._entries.get(name, ()):
            if entry.descriptor.serves(wanted):
                return entry
        if name in self._entries:
            offered = ", ".join(entry.descriptor.version_text for entry in self._entries[name])
            raise WireError("not_found", f"version {wanted[0]}.{wanted[1]} is not offered; offered: {offered}")
        raise WireError("not_found", "no such capability on this node")

    def __iter__(self) -> Any:
        return (entry for entries in self._entries.values() for entry in entries)

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries
