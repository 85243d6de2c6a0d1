"""Requests of `mapping.py` as the bytes of OTLP, and its responses back, by the classes of `opentelemetry-proto`.

Two things are written here: what joins the records of a request, and an ordinary trace. Of that only ids, times, names
of spans and extras differ from those of the next; the rest of it is made once by `mapping.py` and kept as bytes. So it
takes half the time, which the program's other threads would have to wait for. A field's number is the package's.

Imported late, by what sends: the package is that of `hearthnet[otlp]`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from hearthnet.observability.otel.export import bridged, gen_ai
from hearthnet.observability.otel.export.mapping import SCOPE, Origin, Sender, mapped, resource_of, scope_of
from hearthnet.observability.otel.export.values import span_id, text
from hearthnet.observability.records.results import CANCELLED, OK
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.traces.traceparent import root_span_bytes, to_bytes

__all__ = ["encode", "partial_success"]

_RECORDS: Final[dict[str, Any]] = {"traces": Span, "logs": LogRecord}
_PARTS: Final[dict[str, tuple[Any, Any]]] = {"traces": (ResourceSpans, ScopeSpans), "logs": (ResourceLogs, ScopeLogs)}
# A field's number and its kind, 2: bytes of a given length. Both signals have the same.
_RESOURCES: Final = 1 << 3 | 2  # of a request
_SCOPES: Final = 2 << 3 | 2  # of a resource's part
_ITEMS: Final = 2 << 3 | 2  # of a scope's part
_LOW_BITS, _MORE = 0x7F, 0x80  # of a number in groups of seven bits
_VARINT, _FIXED, _BYTES = 0, 1, 2  # kinds of fields


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
    for run_id, scope, item in _items(signal, records, sender, unmapped):
        by_run.setdefault(run_id, {}).setdefault(scope, []).extend((_head(_ITEMS, len(item)), item))
    resource_class, scope_class = _PARTS[signal]
    made: list[bytes] = []
    for run_id, scopes in by_run.items():
        origin = origins.get(run_id)
        pieces = [resource_class(**resource_of(origin or Origin(run_id), sender)).SerializeToString()]
        for name, items in scopes.items():
            of_scope = scope_class(**scope_of(signal, name, origin)).SerializeToString()
            pieces += _field(_SCOPES, [of_scope, *items])
        made += _field(_RESOURCES, pieces)
    return b"".join(made)


def _items(
    signal: str, records: Iterable[Any], sender: Sender, unmapped: list[int] | None
) -> Iterator[tuple[str, str, bytes]]:
    """Yields run, scope and bytes of each span or log record."""
    record_class = _RECORDS[signal]
    for record in records:
        ordinary = _ordinary(record) if signal == "traces" else None
        if ordinary is not None:
            for item in ordinary:
                yield record.run_id, SCOPE, item
        else:
            for run_id, scope, fields in mapped(signal, [record], sender, unmapped):
                yield run_id, scope, record_class(**fields).SerializeToString()


def _field(tag: int, pieces: list[bytes]) -> list[bytes]:
    """Returns the pieces of a field that is a message of these, which are fields themselves, in any order."""
    return [_head(tag, sum(map(len, pieces))), *pieces]


@lru_cache(maxsize=4_096)
def _head(tag: int, length: int) -> bytes:
    """Returns what a field of a length begins with: its tag, and its length."""
    return bytes((tag,)) + _number(length)


def _number(value: int) -> bytes:
    """Returns an unsigned number, seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > _LOW_BITS:
        encoded.append(value & _LOW_BITS | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# --- ordinary traces


def _tag(message: type[Message], field: str, kind: int) -> int:
    return int(message.DESCRIPTOR.fields_by_name[field].number) << 3 | kind


_NAME: Final = _tag(Span, "name", _BYTES)
_ATTRIBUTE: Final = _tag(Span, "attributes", _BYTES)
_KEY: Final = _tag(KeyValue, "key", _BYTES)
_VALUE: Final = _tag(KeyValue, "value", _BYTES)
_TEXT: Final = _tag(AnyValue, "string_value", _BYTES)
_TRUE, _FALSE = (bytes((_tag(AnyValue, "bool_value", _VARINT), said)) for said in (1, 0))
_INTEGER: Final = bytes((_tag(AnyValue, "int_value", _VARINT),))
_FLOAT: Final = struct.Struct("<Bd")
_FLOAT_TAG: Final = _tag(AnyValue, "double_value", _FIXED)
_64_BITS: Final = 2**64
_HALF: Final = 2**63

_TRACE_ID: Final = bytes((_tag(Span, "trace_id", _BYTES), 16))
_SPAN_ID: Final = bytes((_tag(Span, "span_id", _BYTES), 8))
_PARENT_ID: Final = bytes((_tag(Span, "parent_span_id", _BYTES), 8))
_START: Final = _tag(Span, "start_time_unix_nano", _FIXED)
_END: Final = _tag(Span, "end_time_unix_nano", _FIXED)
_ALONE: Final = struct.Struct("<2s16s2s8sBQBQ")
_WITH_PARENT: Final = struct.Struct("<2s16s2s8sBQBQ2s8s")
_VARYING: Final = ("trace_id", "span_id", "parent_span_id", "start_time_unix_nano", "end_time_unix_nano")

_NO_TRACE: Final = bytes(16)
_SAMPLE_ID: Final = "01M8PB3HQC7D4KZXGR0H1X3EKY"
_SAMPLE_SPAN: Final[dict[str, Any]] = {
    "id": "00f067aa0ba902b7",
    "parent": None,
    "name": "",
    "offset_ms": 0.0,
    "duration_ms": 0.0,
    "status": OK,
    "extras": {},
}
# Extras that `mapping.py` makes something else of.
_NOT_PLAIN: Final = frozenset({"truncated", "truncated_keys", "link"})
_STREAM: Final = "stream"
_CALLER: Final = "caller"


class _UnusualError(Exception):
    """Raised for a trace that `mapping.py` has to map."""


def _ordinary(record: TraceRecord) -> list[bytes] | None:
    """Returns the spans of a trace, the root first; None if it is not ordinary, or has no form in OTLP."""
    if (
        record.result not in (OK, CANCELLED)
        or record.error is not None
        or record.capability == gen_ai.CAPABILITY
        or bridged.MARK in record.spans
        or bridged.MARK in record.extras
    ):
        return None
    try:
        return _spans(record)
    except (_UnusualError, ValueError, TypeError, KeyError, AttributeError, OverflowError, struct.error):
        return None  # `mapping.py` finds out why


def _spans(record: TraceRecord) -> list[bytes]:
    trace_id = to_bytes(record.trace_id)
    if trace_id == _NO_TRACE:
        raise _UnusualError
    root_id = root_span_bytes(trace_id, *record.root_key[1:])
    start_ns = record.started_us * 1_000
    extras: dict[str, Any] = orjson.loads(record.extras)
    spans: list[dict[str, Any]] = orjson.loads(record.spans)
    is_stream = _CALLER in extras and any(span["name"] == _STREAM for span in spans)
    parent_id = None if record.parent_id is None else span_id(record.parent_id)
    common, names = _common_of_root(
        record.capability, record.version, record.result, parent_id is not None, _CALLER in extras, is_stream
    )
    if not names.isdisjoint(extras):
        raise _UnusualError
    made = [_ids_and_times(trace_id, root_id, parent_id, start_ns, record.duration_ms) + common + _attributes(extras)]
    for span in spans:
        if span["status"] != OK:
            raise _UnusualError
        name, parent = span["name"], span["parent"]
        parent_id = span_id(parent) if parent else root_id
        at_ns = start_ns + round(span["offset_ms"] * 1e6)
        head = _ids_and_times(trace_id, span_id(span["id"]), parent_id, at_ns, span["duration_ms"])
        made.append(b"".join((head, _text(_NAME, name), _common_of_span(), _attributes(span["extras"]))))
    return made


def _ids_and_times(trace_id: bytes, own_id: bytes, parent_id: bytes | None, start_ns: int, duration_ms: float) -> bytes:
    end_ns = start_ns + max(0, round(duration_ms * 1e6))
    if parent_id is None:
        return _ALONE.pack(_TRACE_ID, trace_id, _SPAN_ID, own_id, _START, start_ns, _END, end_ns)
    return _WITH_PARENT.pack(
        _TRACE_ID, trace_id, _SPAN_ID, own_id, _START, start_ns, _END, end_ns, _PARENT_ID, parent_id
    )


@lru_cache(maxsize=1_024)
def _common_of_root(
    capability: str, version: str | None, result: str, has_parent: bool, is_served: bool, is_stream: bool
) -> tuple[bytes, frozenset[str]]:
    """Returns what such traces' roots have in common, and the names of their attributes and of extras that are none."""
    parent_id = _SAMPLE_SPAN["id"] if has_parent else None
    spans = [_SAMPLE_SPAN | {"name": _STREAM}] if is_stream else []
    fields = _sample(spans, {_CALLER: None} if is_served else {}, parent_id, capability, version, result)[0]
    return _common(fields), _NOT_PLAIN | {attribute["key"] for attribute in fields["attributes"]}


@lru_cache(maxsize=1)
def _common_of_span() -> bytes:
    """Returns what all ordinary spans have in common."""
    return _common(_sample([_SAMPLE_SPAN], {}, None, "", None, OK)[1])


def _sample(
    spans: list[dict[str, Any]],
    extras: dict[str, Any],
    parent_id: str | None,
    capability: str,
    version: str | None,
    result: str,
) -> list[dict[str, Any]]:
    """Returns the fields of a trace's root and spans, as `mapping.py` makes them."""
    columns = ("", 0, _SAMPLE_ID, parent_id, capability, version, 0, 0, 0.0, result, None, 0)
    record = TraceRecord(0, *columns, orjson.dumps(spans), orjson.dumps(extras))
    return [fields for _, _, fields in mapped("traces", [record], Sender())]


def _common(fields: dict[str, Any]) -> bytes:
    made: bytes = Span(**{name: value for name, value in fields.items() if name not in _VARYING}).SerializeToString()
    return made


def _attributes(extras: dict[str, Any]) -> bytes:
    if not extras:
        return b""
    if not _NOT_PLAIN.isdisjoint(extras):
        raise _UnusualError
    parts: list[bytes] = []
    for key, value in extras.items():
        if value is not None:
            own, said = _text(_KEY, key), _value(value)
            parts += (_head(_ATTRIBUTE, len(own) + len(said)), own, said)
    return b"".join(parts)


def _text(tag: int, value: Any) -> bytes:
    if type(value) is not str:
        raise _UnusualError
    encoded = value.encode() if value.isascii() else text(value).encode()
    return _head(tag, len(encoded)) + encoded


def _value(value: Any) -> bytes:
    """Returns the value of an attribute: text, a bool, an integer of 64 bits, a float."""
    kind = type(value)
    if kind is str:
        made = _text(_TEXT, value)
    elif kind is bool:
        made = _TRUE if value else _FALSE
    elif kind is int and -_HALF <= value < _HALF:
        made = _INTEGER + _number(value % _64_BITS)
    elif kind is float:
        made = _FLOAT.pack(_FLOAT_TAG, value)
    else:
        raise _UnusualError
    return _head(_VALUE, len(made)) + made


# --- responses


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
