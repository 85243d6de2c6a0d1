"""All records of a file of OTLP, in memory, before any of it is written: a file that is refused leaves nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from hearthnet.constants import LIBRARY_ROLE, LOG_RING_BUFFER, MAX_RUN_ROWS, NODE_ROLE, TRACE_RING_BUFFER
from hearthnet.observability.otel.export.mapping import Gap, Origin
from hearthnet.observability.otel.imports import logs, parts, spans
from hearthnet.observability.otel.imports.file import ImportRefusedError, refused, requests
from hearthnet.observability.records.record import clean_text
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.traces.traceparent import from_w3c

__all__ = ["Contents", "load"]

_MAX_SPANS: Final = 200_000
_SPLIT: Final = "export a part of it: hearthnet telemetry export --since 1h"
_OWN_SDK: Final = "hearthnet"
_ID_CHARS: Final = 64
_NAME_CHARS: Final = 128
_MAX_PID: Final = 2**31


class _Limit(NamedTuple):
    """How many there may be of a kind of record: what one store holds."""

    number: int
    noun: str


_SPANS, _LOGS = _Limit(_MAX_SPANS, "spans"), _Limit(LOG_RING_BUFFER, "log records")
_TRACES, _RUNS = _Limit(TRACE_RING_BUFFER, "traces"), _Limit(MAX_RUN_ROWS, "runs")


@dataclass(slots=True)
class Contents:
    """What a file holds.

    Attributes:
        traces: in the order of the file.
        logs: log records and gaps, likewise.
        origins: the runs that they are of.
        repeated: spans and log records that were there a second time, and were not taken.
        metrics: requests with metrics, which were not taken.
    """

    traces: list[TraceRecord] = field(default_factory=list)
    logs: list[LogRecord | Gap] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    repeated: int = 0
    metrics: int = 0


def load(path: Path) -> Contents:
    """Returns the records of a file.

    Raises:
        ImportRefusedError: raised when it is no such file, or has more than a store holds.
        MissingExtraError: raised for protobuf when `hearthnet[otlp]` is not installed.
        OSError: raised when it cannot be read.
    """
    found = Contents()
    read: list[spans.Span] = []
    for number, request in requests(path):
        try:
            _take(request, found, read)
        except ValueError as error:
            raise refused(path, number, error) from error
        for limit, count in ((_SPANS, len(read)), (_LOGS, len(found.logs)), (_RUNS, len(found.origins))):
            _check(path, limit, count)
    try:
        made, repeated = spans.traces(read)
    except ValueError as error:
        raise ImportRefusedError(f"{path} cannot be imported: {error}") from error
    found.traces = list(islice(made, _TRACES.number + 1))  # no more: to refuse them must not take long
    _check(path, _TRACES, len(found.traces))
    if not (found.traces or found.logs):
        raise ImportRefusedError(f"{path} has no traces and no log records")
    found.repeated = repeated + _without_repeated(found)
    _number(found)
    return found


def _check(path: Path, limit: _Limit, count: int) -> None:
    if count > limit.number:
        raise ImportRefusedError(f"{path} has more than {limit.number:,} {limit.noun}", hint=_SPLIT)


def _take(request: Mapping[str, Any], found: Contents, read: list[spans.Span]) -> None:
    names = ("resourceSpans", "resourceLogs", "resourceMetrics")
    if not any(name in request for name in names):
        raise ValueError(f"it has none of {', '.join(names)}")
    found.metrics += "resourceMetrics" in request
    for run_id, scope, item in _items(request, ("resourceSpans", "scopeSpans", "spans"), found):
        read.append(spans.read(run_id, scope, item))
    for run_id, scope, item in _items(request, ("resourceLogs", "scopeLogs", "logRecords"), found):
        found.logs.append(logs.read(run_id, scope, item))


def _items(
    request: Mapping[str, Any], names: tuple[str, str, str], found: Contents
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields run, scope and fields of each span or log record."""
    resources, scopes, items = names
    for of in parts.objects(request, resources):
        resource = _object(of, "resource")
        if not of.get(scopes):
            continue  # without making a run of it, for it may be the millionth
        origin = _origin(resource)
        found.origins.setdefault(origin.run_id, origin)
        for within in parts.objects(of, scopes):
            scope = clean_text(parts.text(_object(within, "scope"), "name"), _NAME_CHARS)
            for item in parts.objects(within, items):
                yield origin.run_id, scope, item


def _object(of: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = of.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not an object")  # of a file, not of a program
    return found


def _origin(resource: Mapping[str, Any]) -> Origin:
    """Returns the run of a resource. Of another tool's one is made, the same for the same attributes."""
    fields = parts.attributes(resource)
    is_own = fields.get("telemetry.sdk.name") == _OWN_SDK
    instance, pid = fields.get("service.instance.id"), fields.get("process.pid")
    run_id = instance if is_own and isinstance(instance, str) and _is_id(instance) else _digest(fields)
    node_id, version, program = (
        clean_text(fields[name], _NAME_CHARS) if fields.get(name) else None
        for name in ("hearthnet.node_id", "telemetry.sdk.version", "service.name")
    )
    return Origin(
        run_id, node_id if is_own else None, program, version if is_own else None,
        pid if type(pid) is int and 0 <= pid < _MAX_PID else None, NODE_ROLE if is_own and node_id else LIBRARY_ROLE,
    )  # fmt: skip


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _ID_CHARS and text.isascii() and text.isprintable() and " " not in text


def _digest(fields: Mapping[str, Any]) -> str:
    # Of text, so that no value can be one that JSON has not.
    encoded = orjson.dumps([[repr(key), repr(fields[key])] for key in sorted(fields)])
    return from_w3c(f"{int(hashlib.sha256(encoded).hexdigest()[:32], 16) or 1:032x}")


def _without_repeated(found: Contents) -> int:
    """Removes log records that have the identity of one before; returns how many."""
    seen: set[tuple[str, int]] = set()
    kept: list[LogRecord | Gap] = []
    for record in found.logs:
        identity = (record.run_id, record.number) if isinstance(record, LogRecord) and record.number else None
        if identity is None or identity not in seen:
            kept.append(record)
        if identity is not None:
            seen.add(identity)
    repeated = len(found.logs) - len(kept)
    found.logs = kept
    return repeated


def _number(found: Contents) -> None:
    """Gives a number to each record that has none: above all that its run has, in the order of the file.

    A trace's own is not exported.
    """
    last: dict[str, int] = {}
    for record in found.logs:
        if isinstance(record, LogRecord):
            last[record.run_id] = max(last.get(record.run_id, 0), record.number)

    def numbered(record: Any) -> Any:
        if isinstance(record, Gap) or record.number:
            return record
        last[record.run_id] = last.get(record.run_id, 0) + 1
        return record._replace(number=last[record.run_id])

    both = list(map(numbered, chain(found.traces, found.logs)))
    found.traces, found.logs = both[: len(found.traces)], both[len(found.traces) :]
