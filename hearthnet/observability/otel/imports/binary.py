"""Requests of OTLP as protobuf, in the form that JSON has: read by the classes of `opentelemetry-proto`.

Imported late, by what reads such a file: the package is that of `hearthnet[otlp]`.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hearthnet.observability.otel.imports.parts import MAX_VALUES, TooLargeError

__all__ = ["decoded"]

_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})  # base64 in protobuf's own JSON, hexadecimal in OTLP's


def decoded(body: bytes) -> dict[str, Any]:
    """Returns a request of traces or log records.

    A message does not say which it is, and the fields of both have the same numbers. But the id of a span is a
    time in a log record, which a reader of spans passes over: log records are spans without ids.

    Raises:
        ValueError: raised when it is neither.
        TooLargeError: raised when it has too many values.
    """
    traces = _parsed(ExportTraceServiceRequest, body)
    if traces is not None and any(span.span_id for span in _spans(traces)):
        return _as_dict(traces)
    del traces  # each takes memory
    logs = _parsed(ExportLogsServiceRequest, body)
    if logs is None or not logs.resource_logs:
        raise ValueError("a message is neither traces nor log records of OTLP")
    return _as_dict(logs)


def _parsed(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError:  # cut, nested too deep, or the other kind
        return None


def _spans(traces: Any) -> Any:
    return (span for of in traces.resource_spans for scope in of.scope_spans for span in scope.spans)


def _as_dict(message: Message) -> dict[str, Any]:
    _check_size(message)
    found: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    _make_hexadecimal(found)
    return found


def _check_size(message: Message) -> None:
    """Raises TooLargeError for a message with more messages within it than may become objects."""
    count, within = 0, [message]
    while within:
        for field, value in within.pop().ListFields():
            if field.message_type is not None:
                items = [value] if isinstance(value, Message) else value
                count += len(items)
                if count > MAX_VALUES:
                    raise TooLargeError(f"it has more than {MAX_VALUES:,} values")
                within.extend(items)


def _make_hexadecimal(part: Any) -> None:
    """Turns the ids in a part of a request into what they are in OTLP's JSON."""
    if isinstance(part, list):
        for item in part:
            _make_hexadecimal(item)
    elif isinstance(part, dict):
        for key, item in part.items():
            if key in _IDS and isinstance(item, str):
                part[key] = base64.b64decode(item).hex()  # the key is there: no size changes
            else:
                _make_hexadecimal(item)
