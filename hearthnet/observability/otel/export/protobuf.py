"""Requests of `mapping.py` as the bytes of OTLP, and its responses back, by the classes of `opentelemetry-proto`.

Only what joins the records of a request is written here.

Imported late, by what sends: the package is that of `hearthnet[otlp]`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from hearthnet.observability.otel.export.mapping import Origin, Sender, mapped, resource_of, scope_of

__all__ = ["encode", "partial_success"]

_RECORDS: Final[dict[str, Any]] = {"traces": Span, "logs": LogRecord}
_PARTS: Final[dict[str, tuple[Any, Any]]] = {"traces": (ResourceSpans, ScopeSpans), "logs": (ResourceLogs, ScopeLogs)}
# A field's number and its kind, 2: bytes of a given length. Both signals have the same.
_RESOURCES: Final = 1 << 3 | 2  # of a request
_SCOPES: Final = 2 << 3 | 2  # of a resource's part
_ITEMS: Final = 2 << 3 | 2  # of a scope's part
_LOW_BITS, _MORE = 0x7F, 0x80  # of a number in groups of seven bits


def encode(
    signal: str,
    records: Iterable[Any],
    origins: Mapping[str, Origin],
    sender: Sender,
    unmapped: list[int] | None = None,
) -> bytes:
    """Returns a request as protobuf.

    Made and serialised record by record, and the pieces joined: thousands of dictionaries at once would have the
    garbage collector visit the whole program, and a message of them all would hold the interpreter's lock too long.

    Args and errors are those of `mapping.request`.
    """
    by_run: dict[str, dict[str, list[bytes]]] = {}
    record_class = _RECORDS[signal]
    for run_id, scope, fields in mapped(signal, records, sender, unmapped):
        item = record_class(**fields).SerializeToString()
        by_run.setdefault(run_id, {}).setdefault(scope, []).extend((_head(_ITEMS, len(item)), item))
    resource_class, scope_class = _PARTS[signal]
    made = []
    for run_id, scopes in by_run.items():
        origin = origins.get(run_id)
        parts = [resource_class(**resource_of(origin or Origin(run_id), sender)).SerializeToString()]
        for name, items in scopes.items():
            of_scope = scope_class(**scope_of(signal, name, origin)).SerializeToString()
            parts.append(_field(_SCOPES, [of_scope, *items]))
        made.append(_field(_RESOURCES, parts))
    return b"".join(made)


def _field(tag: int, pieces: Collection[bytes]) -> bytes:
    """Returns a field that is a message of these pieces, which are fields themselves, in any order."""
    return b"".join((_head(tag, sum(map(len, pieces))), *pieces))


@lru_cache(maxsize=4_096)
def _head(tag: int, length: int) -> bytes:
    """Returns what a field of a length begins with: its tag, and its length, seven bits a byte, the lowest first."""
    encoded = bytearray((tag,))
    while length > _LOW_BITS:
        encoded.append(length & _LOW_BITS | _MORE)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


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
