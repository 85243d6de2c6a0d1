"""Rows of telemetry.db as OTLP: the one table of which field becomes which.

Pure: a request is made of columns alone, so the same row gives the same bytes each time. It is a dictionary with the
field names of the protocol, ids as bytes and times as integers: what the classes of `opentelemetry-proto` are made of
(`protobuf.py`), and what the JSON mapping is written from (`otlp_json.py`).

A trace itself becomes a span, the root of its spans, with the id that a called node has as its parent. A trace is never
cut over two requests: a backend that samples late would decide twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from hearthnet.constants import NODE_ROLE
from hearthnet.errors import HTTP_STATUS
from hearthnet.observability.otel.export import bridged, gen_ai
from hearthnet.observability.otel.export.exceptions import type_in, type_of
from hearthnet.observability.otel.export.values import attributes, nanoseconds, span_id, text
from hearthnet.observability.otel.fields import PARENT_IS_REMOTE
from hearthnet.observability.otel.fields import SCOPE as SCOPE_NAME
from hearthnet.observability.records.results import CALLERS_ERRORS, INTERRUPTED, OK, is_failure
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.traces.traceparent import root_span_bytes, to_bytes

__all__ = [
    "NAMES",
    "SCHEMA_URL",
    "Gap",
    "Origin",
    "Sender",
    "mapped",
    "request",
    "resource_of",
    "scope_of",
]

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"  # has all names that are used here
SCOPE: Final = "hearthnet"
# The parts of a request: of runs, in them of scopes, in them the records.
NAMES: Final = {
    "traces": ("resource_spans", "scope_spans", "spans"),
    "logs": ("resource_logs", "scope_logs", "log_records"),
}
_INTERNAL, _SERVER, _CLIENT = 1, 2, 3  # SpanKind
_UNSET, _ERROR = 0, 2  # StatusCode: `ok` is a word for people, not for the program that made the span
_SAMPLED, _KNOWS_PARENT, _IS_REMOTE = 0x1, 0x100, 0x200  # Span.flags
_SEVERITIES: Final = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}
_WARNING: Final = 13
_NO_TRACE: Final = bytes(16)
_ROUTE: Final = "/bus/v1/call"
_NOT_ATTRIBUTES: Final = frozenset({"truncated", "truncated_keys"})


class Origin(NamedTuple):
    """The run that records are of; None: not known."""

    run_id: str
    node_id: str | None = None
    program: str | None = None
    version: str | None = None
    pid: int | None = None
    role: str | None = None


class Gap(NamedTuple):
    """Records that were lost: of which kind (trace, log), how many, why, and when that was noticed."""

    run_id: str
    seq: int
    ts_us: int
    kind: str
    reason: str
    lost: int


@dataclass(frozen=True, slots=True)
class Sender:
    """What the sending machine and its settings add to a run's own resource.

    Attributes:
        host: name of the machine.
        program: of the sending process: `service_name` is that of its own runs.
        service_name: of the settings; None: the name of the program.
        resource: further attributes, of all runs.
        has_exception_events: whether an exception is also an event of its span.
    """

    host: str | None = None
    program: str | None = None
    service_name: str | None = None
    resource: Mapping[str, str] = field(default_factory=dict)
    has_exception_events: bool = True


def mapped(
    signal: str, records: Iterable[Any], sender: Sender, unmapped: list[int] | None = None
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields run, scope and fields of each span or log record, one by one: few of them are in memory at a time.

    Args:
        signal: `traces` or `logs`.
        records: committed traces; or log records and gaps.
        sender: adds to each resource.
        unmapped: gets the seq of each record that has no form in OTLP, of a damaged file say; None: raise.

    Raises:
        ValueError: raised when there is such a record and `unmapped` is None.
    """
    make = _spans if signal == "traces" else _log_records
    for record in records:
        try:
            made = make(record, sender)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            if unmapped is None:
                raise ValueError(f"record {record.seq} of {signal} has no form in OTLP: {error}") from error
            unmapped.append(record.seq)
            continue
        for scope, fields in made:
            yield record.run_id, scope, fields


def request(
    signal: str,
    records: Iterable[Any],
    origins: Mapping[str, Origin],
    sender: Sender,
    unmapped: list[int] | None = None,
    convert: Callable[[dict[str, Any]], Any] = lambda fields: fields,
) -> dict[str, Any]:
    """Returns the fields of a whole request: one resource for each run, in it one scope for each logger.

    Args and errors are those of `mapped`; `origins` are the runs of the records; `convert` is called with the fields of
    each span or log record at once.
    """
    resources, scopes, items = NAMES[signal]
    by_run: dict[str, dict[str, list[Any]]] = {}
    for run_id, scope, fields in mapped(signal, records, sender, unmapped):
        by_run.setdefault(run_id, {}).setdefault(scope, []).append(convert(fields))
    return {
        resources: [
            resource_of(origins.get(run_id) or Origin(run_id), sender)
            | {scopes: [scope_of(signal, name, origins.get(run_id)) | {items: made} for name, made in of_run.items()]}
            for run_id, of_run in by_run.items()
        ]
    }


def resource_of(origin: Origin, sender: Sender) -> dict[str, Any]:
    """Returns the fields of a run's part of a request, without its scopes."""
    return {"resource": _resource(origin, sender), "schema_url": SCHEMA_URL}


def scope_of(signal: str, name: str, origin: Origin | None) -> dict[str, Any]:
    """Returns the fields of a scope's part of a request, without its records."""
    if signal == "traces" and name != SCOPE:  # an instrumented library: which conventions it follows is not known
        return {"scope": {"name": name}}
    version = origin.version if origin is not None and name == SCOPE else None
    return {"scope": {"name": name, **({"version": version} if version else {})}, "schema_url": SCHEMA_URL}


def _resource(origin: Origin, sender: Sender) -> dict[str, Any]:
    is_own = origin.program is not None and origin.program == sender.program
    name = (sender.service_name if is_own else None) or origin.program or SCOPE
    fields = {
        **sender.resource,
        "service.name": name,
        "service.version": origin.version if origin.role == NODE_ROLE else None,  # of others it is not known
        "service.instance.id": origin.run_id,
        "host.name": sender.host,
        "process.pid": origin.pid,
        "hearthnet.node_id": origin.node_id,
        "telemetry.sdk.name": SCOPE,
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": origin.version,
    }
    return {"attributes": attributes(fields)}


# --- traces


def _spans(record: TraceRecord, sender: Sender) -> list[tuple[str, dict[str, Any]]]:
    """Returns the spans of a trace, the root first, each with its scope."""
    trace_id = to_bytes(record.trace_id)
    if trace_id == _NO_TRACE:
        raise ValueError("all zeros are no trace id")
    root_id = root_span_bytes(trace_id, *record.root_key[1:])
    extras: dict[str, Any] = orjson.loads(record.extras)
    spans: list[dict[str, Any]] = orjson.loads(record.spans)
    is_chat = record.capability == gen_ai.CAPABILITY
    said = gen_ai.conversation(extras) if is_chat and "request_body" in extras else {}
    noted = bridged.take(extras) if bridged.MARK in record.extras else {}
    found = [(_scope_of(noted), _root(record, extras, noted, spans, trace_id, root_id, sender))]
    has_noted = bridged.MARK in record.spans
    for span in spans:
        noted = bridged.take(span["extras"]) if has_noted else {}
        made = _span(span, noted, trace_id, root_id, record.started_us * 1_000, sender, said if is_chat else None)
        found.append((_scope_of(noted), made))
    return found


def _scope_of(noted: Mapping[str, Any]) -> str:
    return text(noted[SCOPE_NAME]) if SCOPE_NAME in noted else SCOPE


def _root(
    record: TraceRecord,
    extras: dict[str, Any],
    noted: dict[str, Any],
    spans: list[dict[str, Any]],
    trace_id: bytes,
    root_id: bytes,
    sender: Sender,
) -> dict[str, Any]:
    start_ns = record.started_us * 1_000
    parent = _parent_of(record)
    is_remote = parent is not None and noted.get(PARENT_IS_REMOTE) is not False
    is_served = "caller" in extras and SCOPE_NAME not in noted
    is_server = (is_remote or is_served) and SCOPE_NAME not in noted
    result = record.result
    # An HTTP server's span is no error when the caller made one.
    is_error = is_failure(result) and not (is_server and result in CALLERS_ERRORS)
    link = _link(extras.get("link"))
    fields = {
        "hearthnet.capability": record.capability,
        "hearthnet.capability.version": record.version,
        "hearthnet.result": result,
        "hearthnet.parent_id": record.parent_id if parent is None else None,  # a program's own, which is no span's id
        "error.type": result if is_failure(result) else None,
        "hearthnet.truncated_spans": extras.get("truncated"),
        **(_http(result, spans) if is_remote and is_served else {}),
        **{key: value for key, value in extras.items() if key not in _NOT_ATTRIBUTES and (key != "link" or not link)},
    }
    made = {
        "trace_id": trace_id,
        "span_id": root_id,
        "name": text(record.capability),
        "kind": _SERVER if is_server else _INTERNAL,
        "start_time_unix_nano": nanoseconds(start_ns),
        "end_time_unix_nano": nanoseconds(start_ns + max(0, round(record.duration_ms * 1e6))),
        "attributes": attributes(fields),
        "dropped_attributes_count": bridged.count(extras.get("truncated_keys")),
        "flags": _SAMPLED | _KNOWS_PARENT | (_IS_REMOTE if is_remote else 0),
    }
    if is_error:
        made["status"] = _status(record.error or (result if result == INTERRUPTED else None))
    if parent is not None:
        made["parent_span_id"] = parent
    if is_failure(result) and record.error and not bridged.has_exception(noted):
        _add_exception(made, record.error, sender)
    if link is not None:
        made["links"] = [link]
    if noted:
        bridged.complete(made, noted, start_ns)
    return made


def _parent_of(record: TraceRecord) -> bytes | None:
    try:
        return None if record.parent_id is None else span_id(record.parent_id)
    except (ValueError, TypeError):
        return None


def _span(
    span: dict[str, Any],
    noted: dict[str, Any],
    trace_id: bytes,
    root_id: bytes,
    trace_start_ns: int,
    sender: Sender,
    said: dict[str, str] | None,
) -> dict[str, Any]:
    """Returns one span; `said` is the conversation of a language model's trace, None in any other trace."""
    extras: dict[str, Any] = span["extras"]
    status = span["status"]
    start_ns = trace_start_ns + round(span["offset_ms"] * 1e6)
    is_model = said is not None and span["name"] == gen_ai.SPAN and SCOPE_NAME not in noted
    fields: dict[str, Any] = {**gen_ai.named(extras), **(said or {})} if is_model else extras
    error = extras.get("error") if status == "error" else None
    if status == "error":  # the type that an instrumented library has set stays
        fields = {**fields, "error": None, "error.type": extras.get("error.type") or type_of(error) or "_OTHER"}
    elif status != OK:
        fields = {**fields, "hearthnet.status": status}
    parent = span["parent"]
    made = {
        "trace_id": trace_id,
        "span_id": span_id(span["id"]),
        "parent_span_id": span_id(parent) if parent else root_id,
        "name": text(gen_ai.name_of(extras) if is_model else span["name"]),
        "kind": _CLIENT if is_model else _INTERNAL,
        "start_time_unix_nano": nanoseconds(start_ns),
        "end_time_unix_nano": nanoseconds(start_ns + max(0, round(span["duration_ms"] * 1e6))),
        "attributes": attributes(fields) if fields else [],
        "dropped_attributes_count": bridged.count(extras.get("truncated_keys")),
        "flags": _SAMPLED | _KNOWS_PARENT,
    }
    if status == "error":
        made["status"] = _status(error)
    if error and not (noted and bridged.has_exception(noted)):
        _add_exception(made, error, sender)
    if noted:
        bridged.complete(made, noted, trace_start_ns)
    return made


def _http(result: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns HTTP's attributes of a call that came over it; the status of a stream was sent before its result."""
    is_stream = any(span["name"] == "stream" for span in spans)
    status = None if is_stream else 200 if result == OK else HTTP_STATUS.get(result)
    return {"http.request.method": "POST", "http.route": _ROUTE, "http.response.status_code": status}


def _status(said: object) -> dict[str, Any]:
    return {"code": _ERROR, **({"message": text(said)} if said else {})}


def _add_exception(made: dict[str, Any], error: object, sender: Sender) -> None:
    if sender.has_exception_events:
        kind, said = type_of(error), text(error)
        message = said if kind is None else said[len(kind) :].removeprefix(": ")
        fields = {"exception.type": kind, "exception.message": message or None}
        event = {"name": "exception", "time_unix_nano": made["end_time_unix_nano"], "attributes": attributes(fields)}
        made["events"] = [event]


def _link(link: object) -> dict[str, Any] | None:
    """Returns the link to a caller's trace that is none of ours; None if it is none."""
    if link is None:
        return None
    try:
        trace_id, caller_id = to_bytes(link["trace_id"]), span_id(link["span_id"])  # type: ignore[index]
    except (ValueError, TypeError, KeyError, AttributeError):  # a field of the program's, which has the same name
        return None
    return {"trace_id": trace_id, "span_id": caller_id, "flags": _KNOWS_PARENT | _IS_REMOTE}


# --- log records


def _log_records(record: LogRecord | Gap, _: Sender) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(record, Gap):
        return [(SCOPE, _gap(record))]
    return [(text(record.logger), _log(record))]


def _log(record: LogRecord) -> dict[str, Any]:
    extras: dict[str, Any] = orjson.loads(record.extras)
    fields = {
        # Its identity, by which a receiver recognises a record that is sent twice.
        "log.record.uid": f"{record.run_id}-{record.number}",
        "hearthnet.repeats": record.repeats or None,
        **{key: value for key, value in extras.items() if key != "truncated_keys"},
    }
    if record.exc:
        fields |= {"exception.type": type_in(record.exc), "exception.stacktrace": text(record.exc)}
    made: dict[str, Any] = {
        "time_unix_nano": nanoseconds(record.ts_us * 1_000),
        "observed_time_unix_nano": record.ts_us * 1_000,
        "severity_number": _SEVERITIES.get(record.level, _SEVERITIES["info"]),
        "severity_text": record.level,
        "body": {"string_value": text(record.msg)},
        "attributes": attributes(fields),
        "dropped_attributes_count": bridged.count(extras.get("truncated_keys")),
    }
    if record.trace_id is not None:
        made |= {"trace_id": to_bytes(record.trace_id), "flags": _SAMPLED}
        if record.span_id is not None:
            made["span_id"] = span_id(record.span_id)
    return made


def _gap(gap: Gap) -> dict[str, Any]:
    noun = {"trace": "traces", "log": "log records"}.get(gap.kind, gap.kind)
    fields = {"hearthnet.lost.kind": gap.kind, "hearthnet.lost.reason": gap.reason, "hearthnet.lost.count": gap.lost}
    return {
        "time_unix_nano": nanoseconds(gap.ts_us * 1_000),
        "observed_time_unix_nano": gap.ts_us * 1_000,
        "severity_number": _WARNING,
        "severity_text": "warning",
        "body": {"string_value": f"{gap.lost} {noun} were lost: {gap.reason}"},
        "event_name": "hearthnet.lost",
        "attributes": attributes(fields),
    }
