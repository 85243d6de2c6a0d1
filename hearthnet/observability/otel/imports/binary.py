"""Requests of OTLP as protobuf, in the form that JSON has: read by the classes of `opentelemetry-proto`.

Imported late, by what reads such a file: the package is that of `hearthnet[otlp]`.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["decoded"]

_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})  # base64 in protobuf's own JSON, hexadecimal in OTLP's


def decoded(body: bytes) -> dict[str, Any]:
    """Returns a request of traces or log records.

    A message does not say which it is, and the fields of both have the same numbers. But the id of a span is a
    time in a log record, which a reader of spans passes over: log records are spans without ids.

    Raises:
        ValueError: raised when it is neither.
    """
    traces = _parsed(ExportTraceServiceRequest, body)
    if traces is not None and any(span.span_id for span in _spans(traces)):
        return _hexadecimal(_as_dict(traces))  # type: ignore[no-any-return]
    logs = _parsed(ExportLogsServiceRequest, body)
    if logs is None or not logs.resource_logs:
        raise ValueError("a message is neither traces nor log records of OTLP")
    return _hexadecimal(_as_dict(logs))  # type: ignore[no-any-return]


def _parsed(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError:  # cut, nested too deep, or the other kind
        return None


def _spans(traces: Any) -> Any:
    return (span for of in traces.resource_spans for scope in of.scope_spans for span in scope.spans)


def _as_dict(message: Any) -> Any:
    return MessageToDict(message, use_integers_for_enums=True)


def _hexadecimal(part: Any) -> Any:
    """Returns a part of a request with its ids as they are in OTLP's JSON."""
    if isinstance(part, list):
        return [_hexadecimal(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: base64.b64decode(item).hex() if key in _IDS and isinstance(item, str) else _hexadecimal(item)
        for key, item in part.items()
    }
