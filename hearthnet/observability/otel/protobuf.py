"""Requests of `mapping.py` as the bytes of OTLP, and its responses back, by the classes of `opentelemetry-proto`.

Imported late, by what sends: the package is that of `hearthnet[otlp]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["encode", "partial_success"]


def encode(request: Mapping[str, Any]) -> bytes:
    """Returns a request of traces, or of log records, as protobuf."""
    kind = ExportTraceServiceRequest if "resource_spans" in request else ExportLogsServiceRequest
    made: bytes = kind(**request).SerializeToString()
    return made


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
