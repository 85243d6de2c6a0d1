"""The capabilities that this node offers, with what each needs at run time."""

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
except ModuleNotFoundError as error:  # the first package that is missing where somebody imports a node
    raise missing_extra(error) or error from error

__all__ = ["Entry", "Registry"]

# Their label takes what is offered, and `other` for all that callers invent.
_BY_CAPABILITY: Final = (
    metrics.requests_total,
    metrics.request_duration_ms,
    metrics.active_streams,
    metrics.rate_limited_total,
    metrics.capability_health_success_rate,
)


class Entry:
    """An offered capability: descriptor, handler, compiled schemas, health, and how many calls run now."""

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
        """Raises WireError `schema_mismatch` when the body is not what the descriptor asks for."""
        problem = next(iter(self._request.iter_errors(body)), None)
        if problem is not None:
            place = "/".join(str(part) for part in problem.absolute_path) or "body"
            raise WireError("schema_mismatch", f"{place}: {_what_is_wrong(problem)[:200]}")

    def check_response(self, answer: dict[str, Any]) -> None:
        """Raises WireError `internal_error` when a handler's answer breaks its own descriptor or is no JSON."""
        _check(self._response, answer, "answer")

    def check_frame(self, frame: dict[str, Any]) -> None:
        """Raises WireError `internal_error` when a frame breaks the descriptor or is no JSON."""
        _check(self._frame, frame, "frame")


def _what_is_wrong(problem: ValidationError) -> str:
    """Returns the rule that a body breaks. The library would quote the body, and errors are recorded."""
    if problem.validator == "required":
        return problem.message  # names what is missing
    if problem.validator == "additionalProperties":
        return "there is more in it than allowed"
    return f"{problem.validator} must be {problem.validator_value!r}"


def _check(schema: Draft202012Validator, made: object, what: str) -> None:
    if not schema.is_valid(made):
        raise WireError("internal_error", f"the capability's {what} does not match its schema")
    try:
        orjson.dumps(made)
    except (TypeError, ValueError) as error:  # told here, while the call can still fail in an orderly way
        raise WireError("internal_error", f"the capability's {what} is not JSON") from error


class Registry:
    """Finds the entry for a name and a version."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Entry]] = {}

    def add(self, descriptor: CapabilityDescriptor, handler: Handler) -> Entry:
        """Offers a capability.

        Raises:
            ValueError: raised when that name and version is offered already.
        """
        if any(entry.descriptor.version == descriptor.version for entry in self._entries.get(descriptor.name, ())):
            raise ValueError(f"{descriptor.name}@{descriptor.version_text} is offered already")
        entry = Entry(descriptor, handler)
        entries = self._entries.setdefault(descriptor.name, [])
        entries.append(entry)
        # The newest minor that serves a request is the first one found.
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
