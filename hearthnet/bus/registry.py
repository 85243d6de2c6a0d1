"""The registry of offered capabilities and their state at run time."""

from __future__ import annotations

from typing import Any, Final

import orjson

from hearthnet.bus.capability import CapabilityDescriptor, Handler
from hearthnet.bus.health import Health
from hearthnet.errors import WireError
from hearthnet.extras import missing_extra
from hearthnet.observability import metrics

try:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
except ModuleNotFoundError as error:  # the first missing package when a node is imported
    raise missing_extra(error) or error from error

__all__ = ["Entry", "Registry"]

# Their label is an offered capability, or `other` for names that callers invent.
_BY_CAPABILITY: Final = (
    metrics.requests_total,
    metrics.request_duration_ms,
    metrics.active_streams,
    metrics.rate_limited_total,
    metrics.capability_health_success_rate,
)


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
