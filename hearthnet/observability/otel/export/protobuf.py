"""Requests of `mapping.py` as the bytes of OTLP, and its responses back, by the classes of `opentelemetry-proto`.

Imported late, by what sends: the package is that of `hearthnet[otlp]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["encode", "partial_success"]


_RECORDS_A_PAUSE: Final = 16


def encode(request: Mapping[str, Any], pause: Callable[[], object] = lambda: None) -> bytes:
    """Returns a request of traces, or of log records, as protobuf.

    Made record by record: the message as a whole would hold the interpreter's lock for milliseconds.

    Args:
        request: its fields.
        pause: called every few records.
    """
    is_traces = "resource_spans" in request
    resources, scopes, records = (
        ("resource_spans", "scope_spans", "spans") if is_traces else ("resource_logs", "scope_logs", "log_records")
    )
    made: Any = ExportTraceServiceRequest() if is_traces else ExportLogsServiceRequest()
    for resource in request[resources]:
        of_run = getattr(made, resources).add(**{name: part for name, part in resource.items() if name != scopes})
        for scope in resource.get(scopes, ()):
            of_scope = getattr(of_run, scopes).add(**{name: part for name, part in scope.items() if name != records})
            add = getattr(of_scope, records).add
            for at, record in enumerate(scope[records]):
                add(**record)
                if at % _RECORDS_A_PAUSE == 0:
                    pause()
    encoded: bytes = made.SerializeToString()
    return encoded


def partial_success(kind: str, body: bytes) -> tuple[int, str]:
    """Returns how many records a response rejects, and its words, which may also be a warning of an accepted request.

    Args:
        kind: `traces` or `logs`.
        body: of the response.

    Raises:
        ValueError: raised when it is no response of OTLP.
    """
    try:
        if kind == "traces":
            of_traces = ExportTraceServiceResponse.FromString(body).partial_success
            return of_traces.rejected_spans, of_traces.error_message
        of_logs = ExportLogsServiceResponse.FromString(body).partial_success
        return of_logs.rejected_log_records, of_logs.error_message
    except DecodeError as error:
        raise ValueError("not a response of OTLP") from error
