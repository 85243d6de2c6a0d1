"""A stored trace as OTLP in JSON (`ExportTraceServiceRequest`): pure, from the columns of its row.

As the protocol's JSON mapping has it, ids are hexadecimal, and 64-bit integers, such as nanoseconds, are strings. The
trace itself becomes a span, the root of its spans, with the id that a called node has as its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hearthnet.observability.records.results import is_failure
from hearthnet.observability.traces.traceparent import to_w3c

__all__ = ["export_request"]

_INTERNAL, _SERVER = 1, 2  # SpanKind
_UNSET, _OK, _ERROR = 0, 1, 2  # StatusCode
_SCOPE: Final = "hearthnet"
_MAX_INTEGER: Final = 2**63


def export_request(
    trace: Mapping[str, Any], root_id: str, *, program: str | None, version: str | None = None
) -> dict[str, Any]:
    """Returns the request that exports one trace.

    Args:
        trace: the columns of its row, `spans` and `extras` decoded.
        root_id: of the trace's own span, as `root_span_id` makes it.
        program: the program that recorded it, `service.name`.
        version: of hearthnet.

    Raises:
        ValueError: raised when the trace's id is no ULID, in a damaged file.
    """
    resource = {"service.name": program or _SCOPE, "service.version": version, "service.instance.id": trace["run_id"]}
    scope = {"name": _SCOPE, **({"version": version} if version else {})}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": scope, "spans": _spans(trace, root_id)}],
            }
        ]
    }


def _spans(trace: Mapping[str, Any], root_id: str) -> list[dict[str, Any]]:
    trace_id = to_w3c(trace["trace_id"])
    attributes = {
        "hearthnet.capability": trace["capability"],
        "hearthnet.capability.version": trace["version"],
        "hearthnet.result": trace["result"],
        **trace["extras"],
    }
    root = {
        "traceId": trace_id,
        "spanId": root_id,
        **_parent(trace["parent_id"]),
        "name": trace["capability"],
        "kind": _SERVER,
        **_times(trace["started_us"], 0.0, trace["duration_ms"]),
        "attributes": _attributes(attributes),
        "status": _status(is_failed=is_failure(trace["result"]), is_ok=trace["result"] == "ok", said=trace["error"]),
    }
    return [root, *(_span(span, trace, trace_id, root_id) for span in trace["spans"])]


def _span(span: Mapping[str, Any], trace: Mapping[str, Any], trace_id: str, root_id: str) -> dict[str, Any]:
    status = span["status"]
    return {
        "traceId": trace_id,
        "spanId": span["id"],
        "parentSpanId": span["parent"] or root_id,
        "name": span["name"],
        "kind": _INTERNAL,
        **_times(trace["started_us"], span["offset_ms"], span["duration_ms"]),
        "attributes": _attributes({"hearthnet.status": status, **span["extras"]}),
        "status": _status(is_failed=status == "error", is_ok=status == "ok", said=span["extras"].get("error")),
    }


def _parent(parent_id: str | None) -> dict[str, str]:
    return {} if parent_id is None else {"parentSpanId": parent_id}


def _times(started_us: int, offset_ms: float, duration_ms: float) -> dict[str, str]:
    start_ns = started_us * 1_000 + round(offset_ms * 1e6)
    return {"startTimeUnixNano": str(start_ns), "endTimeUnixNano": str(start_ns + round(duration_ms * 1e6))}


def _status(*, is_failed: bool, is_ok: bool, said: object) -> dict[str, Any]:
    if is_failed:
        return {"code": _ERROR, **({"message": str(said)} if said else {})}
    return {"code": _OK if is_ok else _UNSET}


def _attributes(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in fields.items() if value is not None]


def _value(value: object) -> dict[str, Any]:
    """Returns a value as `AnyValue`."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -_MAX_INTEGER <= value < _MAX_INTEGER:
        return {"intValue": str(value)}
    if isinstance(value, int | float):
        return {"doubleValue": float(value)}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _attributes(value)}}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {"arrayValue": {"values": [{} if item is None else _value(item) for item in value]}}
    return {"stringValue": str(value)}
