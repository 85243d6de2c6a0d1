"""Requests of `mapping.py` as the bytes of OTLP, and its responses back, by the classes of `opentelemetry-proto`.

Imported late, by what sends: the package is that of `hearthnet[otlp]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from hearthnet.observability.otel.export.mapping import NAMES, Origin, Sender, mapped, resource_of, scope_of

__all__ = ["encode", "partial_success"]


def encode(
    signal: str,
    records: Iterable[Any],
    origins: Mapping[str, Origin],
    sender: Sender,
    unmapped: list[int] | None = None,
) -> bytes:
    """Returns a request as protobuf.

    Made record by record: thousands of dictionaries at once would have the garbage collector visit the whole program,
    and the message made of them in one step would hold the interpreter's lock for milliseconds.

    Args and errors are those of `mapping.request`.
    """
    resources, scopes, items = NAMES[signal]
    made: Any = ExportTraceServiceRequest() if signal == "traces" else ExportLogsServiceRequest()
    of_runs: dict[str, Any] = {}
    adds: dict[tuple[str, str], Any] = {}
    for run_id, scope, fields in mapped(signal, records, sender, unmapped):
        add = adds.get((run_id, scope))
        if add is None:
            origin = origins.get(run_id)
            if run_id not in of_runs:
                of_runs[run_id] = getattr(made, resources).add(**resource_of(origin or Origin(run_id), sender))
            of_scope = getattr(of_runs[run_id], scopes).add(**scope_of(signal, scope, origin))
            add = adds[run_id, scope] = getattr(of_scope, items).add
        add(**fields)
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
