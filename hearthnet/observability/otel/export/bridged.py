"""What OpenTelemetry's API has noted of a span, back in the words of OTLP: kind, scope, status, events, links.

The bridge keeps it in extras (`fields.py`). Whatever of it was cut, or is damaged, is counted as dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from hearthnet.observability.otel.export.values import attributes, nanoseconds, span_id, text
from hearthnet.observability.otel.fields import EVENTS, KIND, LINKS, OWN, SCOPE, STATUS, dropped
from hearthnet.observability.traces.traceparent import to_bytes

__all__ = ["MARK", "complete", "count", "has_exception", "take"]

MARK: Final = b'"otel.'  # in the JSON of spans or extras, where there is anything
_KINDS: Final = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_OK: Final = {"code": 1}
_EXCEPTION: Final = "exception"


def take(extras: dict[str, Any]) -> dict[str, Any]:
    """Removes the notes from extras, and returns them."""
    return {key: extras.pop(key) for key in [key for key in extras if key.startswith(OWN)]}


def has_exception(noted: Mapping[str, Any]) -> bool:
    """Returns whether the exceptions of a span are among the events: always of spans that the API has made."""
    return SCOPE in noted or any(event.get("name") == _EXCEPTION for event in _items(noted, EVENTS))


def complete(made: dict[str, Any], noted: Mapping[str, Any], trace_start_ns: int) -> None:
    """Adds the notes to the fields of a span.

    Args:
        made: the span.
        noted: its notes.
        trace_start_ns: when its trace began, nanoseconds since 1970.
    """
    if SCOPE in noted or KIND in noted:
        made["kind"] = _KINDS.get(str(noted.get(KIND)), _KINDS["internal"])
    if noted.get(STATUS) == "OK":
        made["status"] = _OK
    _add(made, noted, EVENTS, lambda event: _event(event, trace_start_ns))
    _add(made, noted, LINKS, _link)
    made["dropped_attributes_count"] += count(noted.get(dropped("attributes")))


def _items(noted: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = noted.get(key)
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _add(
    made: dict[str, Any], noted: Mapping[str, Any], key: str, convert: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> None:
    what = key.removeprefix(OWN)
    given = noted.get(key, [])
    found = []
    for item in _items(noted, key):
        try:
            found.append(convert(item))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
    if found:
        made[what] = [*found, *made.get(what, ())]
    lost = count(noted.get(dropped(what))) + (len(given) if isinstance(given, list) else 1) - len(found)
    if lost:
        made[f"dropped_{what}_count"] = lost


def _event(event: Mapping[str, Any], trace_start_ns: int) -> dict[str, Any]:
    at_ns = max(0, trace_start_ns + round(event["offset_ms"] * 1e6))
    return {"name": text(event["name"]), "time_unix_nano": nanoseconds(at_ns), **_said_of(event)}


def _link(link: Mapping[str, Any]) -> dict[str, Any]:
    trace_id, linked_id = to_bytes(link["trace_id"]), span_id(link["span_id"])
    return {"trace_id": trace_id, "span_id": linked_id, **_said_of(link)}


def _said_of(item: Mapping[str, Any]) -> dict[str, Any]:
    said = item.get("attributes")
    return {"attributes": attributes(said)} if isinstance(said, Mapping) else {}


def count(number: object) -> int:
    """Returns a number of dropped things, as far as it is one that the protocol can hold."""
    return number if type(number) is int and 0 <= number < 2**31 else 0
