"""Spans of OTLP back to traces: `export/mapping.py` the other way round, for its own spans and for others.

A span becomes a trace if it is the first of its trace in its run: this project's export says so of its own; else it has
no parent among the spans of its run, or one that is remote. All that is below it are the spans of that trace.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any, Final, NamedTuple

import orjson

from hearthnet.constants import MAX_CAPABILITY_CHARS, MAX_KEYS, MAX_STRING_BYTES, MAX_TRACE_ROW_BYTES
from hearthnet.observability.otel.export import gen_ai
from hearthnet.observability.otel.export.exceptions import type_of
from hearthnet.observability.otel.fields import EVENTS, KIND, LINKS, PARENT_IS_REMOTE, SCOPE, STATUS, dropped
from hearthnet.observability.otel.imports import parts
from hearthnet.observability.otel.imports.roots import mono_ns_of
from hearthnet.observability.records.record import clean_text, encode, fit
from hearthnet.observability.records.results import INTERRUPTED, OK, RESULTS, is_failure
from hearthnet.observability.records.stored import TraceRecord

__all__ = ["OWN_SCOPE", "Span", "read", "traces"]

OWN_SCOPE: Final = "hearthnet"
_RESULT: Final = "hearthnet.result"
_CAPABILITY: Final = "hearthnet.capability"
_VERSION: Final = "hearthnet.capability.version"
_PARENT: Final = "hearthnet.parent_id"
_TRUNCATED: Final = "hearthnet.truncated_spans"
_STATUS: Final = "hearthnet.status"
_ROUTE: Final = "http.route"
_HTTP: Final = ("http.request.method", _ROUTE, "http.response.status_code")
_CALL: Final = "/bus/v1/call"
_KINDS: Final = {2: "server", 3: "client", 4: "producer", 5: "consumer"}  # 1, internal, goes without saying
_CLIENT: Final = 3
_ERROR: Final = 2  # StatusCode
_STATUS_OK: Final = 1
_KNOWS_PARENT, _IS_REMOTE = 0x100, 0x200  # Span.flags
_UNKNOWN_ERROR: Final = "_OTHER"
_FAILED: Final = "internal_error"  # a result of ours, for an error of another program
_NAME_CHARS: Final = 128
_PARTS: Final = 10_000  # attributes, events and links of a span
_MAX_CHARS: Final = 4 * MAX_STRING_BYTES  # of a name or message: more than a record keeps, and is searched for secrets
_MAX_OPEN: Final = 64  # visits of one trace that are looked through for the one around a span
# Bytes of spans and extras in a row, besides ids, names and an error of at most 2 KiB, as for a trace that is recorded.
_ROOM_BYTES: Final = MAX_TRACE_ROW_BYTES - 2_048 - 512

_began: Final = attrgetter("start_ns")


Event = tuple[str, int, dict[str, Any]]  # name, nanoseconds since 1970, attributes


class Details(NamedTuple):
    """What a span says of itself."""

    attributes: dict[str, Any]
    events: list[Event]
    links: list[dict[str, Any]]


class Span(NamedTuple):
    """A span as the file has it, checked. Ids: the trace's a ULID, the others 16 hexadecimal digits.

    Its details are kept as JSON until its trace is made: as objects they would take up to 15 times the file's size.
    """

    run_id: str
    scope: str
    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: int
    start_ns: int
    end_ns: int
    status: int
    message: str
    flags: int
    is_own_root: bool  # whether it is a trace that this project's export has made a span of
    encoded: bytes
    dropped: dict[str, int]

    @property
    def duration_ms(self) -> float:
        """Its duration; 0 where its end is before its start."""
        return max(0, self.end_ns - self.start_ns) / 1e6

    @property
    def has_remote_parent(self) -> bool:
        """Whether its parent is known to be of another process."""
        return self.flags & (_KNOWS_PARENT | _IS_REMOTE) == _KNOWS_PARENT | _IS_REMOTE

    def details(self) -> Details:
        """Returns its attributes, events and links."""
        return Details(*orjson.loads(self.encoded))


def read(run_id: str, scope: str, found: Mapping[str, Any]) -> Span:
    """Returns a span.

    Raises:
        ValueError: raised when it is none.
    """
    trace_id, span_id = parts.trace_id(found), parts.span_id(found)
    if trace_id is None or span_id is None:
        raise ValueError("a span has no traceId, or no spanId")
    status = found.get("status") or {}
    if not isinstance(status, dict):
        raise ValueError("status is not an object")  # of a file, not of a program
    start_ns = parts.time_ns(found, "startTimeUnixNano")
    if sum(len(parts.objects(found, what)) for what in ("attributes", "events", "links")) > _PARTS:
        raise ValueError("a span has too many attributes, events and links")
    counts = {what: parts.integer(found, f"dropped{what.title()}Count") for what in ("attributes", "events", "links")}
    said = parts.attributes(found)
    events = [_event(event) for event in _kept(found, "events", counts)]
    links = [_link(link) for link in _kept(found, "links", counts)]
    return Span(
        run_id, scope, trace_id, span_id, parts.span_id(found, "parentSpanId"), parts.text(found, "name")[:_MAX_CHARS],
        parts.integer(found, "kind"), start_ns, parts.integer(found, "endTimeUnixNano"), parts.integer(status, "code"),
        parts.text(status, "message")[:_MAX_CHARS], parts.integer(found, "flags"), _RESULT in said,
        b"%b" % orjson.dumps((said, events, links)), {key: n for key, n in counts.items() if n},
    )  # fmt: skip


def _kept(found: Mapping[str, Any], what: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    """Returns as many events or links as a record keeps of a list; the others are counted as dropped."""
    items = parts.objects(found, what)
    counts[what] += max(0, len(items) - MAX_KEYS)
    return items[:MAX_KEYS]


def _event(event: Mapping[str, Any]) -> Event:
    return parts.text(event, "name"), parts.time_ns(event, "timeUnixNano"), parts.attributes(event)


def _link(link: Mapping[str, Any]) -> dict[str, Any]:
    said = parts.attributes(link)
    return {
        "trace_id": parts.trace_id(link), "span_id": parts.span_id(link), **({"attributes": said} if said else {})
    }  # fmt: skip


def traces(spans: Iterable[Span]) -> tuple[Iterator[TraceRecord], int]:
    """Returns the traces of all spans, in the order of their roots in the file, and how many spans were there twice.

    Each trace is made when it is taken.

    Raises:
        ValueError: raised when spans are each other's parents.
    """
    groups: dict[tuple[str, str], dict[str, Span]] = {}
    in_order: list[Span] = []
    repeated = 0
    for span in spans:
        group = groups.setdefault((span.run_id, span.trace_id), {})
        if group.setdefault(span.span_id, span) is span:
            in_order.append(span)
        else:  # one that was sent again, mostly
            repeated += 1
    trees = {id(root): below for group in groups.values() for root, below in _trees(group)}
    return (_trace(span, trees[id(span)]) for span in in_order if id(span) in trees), repeated


def _trees(group: Mapping[str, Span]) -> Iterator[tuple[Span, list[Span]]]:
    """Yields each root among the spans of one trace in one run, with the spans below it."""
    own = sorted((span for span in group.values() if span.is_own_root), key=_began)
    roots: dict[str, str] = {span.span_id: span.span_id for span in own}
    below: dict[str, list[Span]] = {}
    for span in group.values():
        root_id = _root_of(span, group, own, roots)
        below.setdefault(root_id, [])
        if root_id != span.span_id:
            below[root_id].append(span)
    for root_id, spans in below.items():
        yield group[root_id], spans


def _root_of(span: Span, group: Mapping[str, Span], own: list[Span], roots: dict[str, str]) -> str:
    """Returns the id of the root that a span is below, and notes it in `roots` for all on the way."""
    way: list[str] = []
    passed: set[str] = set()
    at = span
    while at.span_id not in roots:
        if at.span_id in passed:
            raise ValueError(f"spans of trace {span.trace_id} are each other's parents")
        passed.add(at.span_id)
        way.append(at.span_id)
        parent = None if at.parent_id is None or at.has_remote_parent else group.get(at.parent_id)
        if parent is None:
            roots[at.span_id] = _adopting(at, own) or at.span_id
            break
        at = parent
    found = roots[at.span_id]
    roots.update(dict.fromkeys(way, found))
    return found


def _adopting(span: Span, own: list[Span]) -> str | None:
    """Returns the root of ours that a span belongs to whose parent did not fit the row: the last begun around it."""
    before = bisect_right(own, span.start_ns, key=_began)
    around = (root for root in reversed(own[max(0, before - _MAX_OPEN) : before]) if span.start_ns <= root.end_ns)
    return next((root.span_id for root in chain(around, own)), None)


def _trace(root: Span, below: list[Span]) -> TraceRecord:
    started_us = root.start_ns // 1_000
    mono_ns = mono_ns_of(root.trace_id, started_us, root.span_id)
    details = root.details()
    fields = details.attributes
    named = fields.pop(_CAPABILITY, None), fields.pop(_VERSION, None), fields.pop(_PARENT, None)
    capability, version, parent_id = (None if item is None else str(item) for item in named)
    result, error = _outcome(root, details)
    start_ns = started_us * 1_000
    if mono_ns is None:
        fields["otel.span_id"] = root.span_id
    extras, spans = _fitted(
        encode(_root_extras(root, details, error, start_ns)), below, lambda span: _span(span, root.span_id, start_ns)
    )
    return TraceRecord(
        0, root.run_id, 0, root.trace_id,
        root.parent_id or (clean_text(parent_id, MAX_CAPABILITY_CHARS) if parent_id else None),
        clean_text(capability or root.name or "unnamed", MAX_CAPABILITY_CHARS),
        clean_text(version, MAX_CAPABILITY_CHARS) if version else None,
        started_us, mono_ns or 0, root.duration_ms, result, clean_text(error) if error else None,
        int(is_failure(result)), spans, extras,
    )  # fmt: skip


def _outcome(root: Span, details: Details) -> tuple[str, str | None]:
    """Returns result and error of a trace; takes what says so out of the fields."""
    fields = details.attributes
    error = root.message or next(filter(None, map(_exception, details.events)), None)
    if not root.is_own_root:
        kind = fields.get("error.type")
        result = OK if root.status != _ERROR else kind if isinstance(kind, str) and kind in RESULTS else _FAILED
        return result, error if root.status == _ERROR else None
    result = clean_text(fields.pop(_RESULT), MAX_CAPABILITY_CHARS)
    if fields.get("error.type") == result:
        del fields["error.type"]
    return result, None if not is_failure(result) or error == result == INTERRUPTED else error


def _exception(event: Event) -> str | None:
    """Returns an exception among the events as the text of an error, `KeyError: 'k'`."""
    name, _, said = event
    texts = [str(said[name]) for name in ("exception.type", "exception.message") if said.get(name)]
    return ": ".join(texts) if name == "exception" and texts else None


def _root_extras(root: Span, details: Details, error: str | None, start_ns: int) -> dict[str, Any]:
    fields = details.attributes
    if root.scope == OWN_SCOPE and root.has_remote_parent and fields.get(_ROUTE) == _CALL:
        for name in _HTTP:  # of every call; made of the others anew
            fields.pop(name, None)
    truncated = fields.pop(_TRUNCATED, None)
    if root.parent_id is not None and root.flags & _KNOWS_PARENT and not root.has_remote_parent:
        fields[PARENT_IS_REMOTE] = False
    fields |= _notes(root, details, error, start_ns)
    links = details.links  # not what the file has under that name
    if root.scope == OWN_SCOPE and links and len(links) == 1 and "attributes" not in links[0]:
        fields["link"] = fields.pop(LINKS)[0]
    return fields if type(truncated) is not int else {**fields, "truncated": truncated}


def _span(span: Span, root_id: str, trace_start_ns: int) -> dict[str, Any]:
    """Returns a span as a row has it."""
    details, name = span.details(), span.name
    fields = details.attributes
    is_own = span.scope == OWN_SCOPE
    status = str(fields.pop(_STATUS, OK)) if is_own else OK
    if is_own and span.kind == _CLIENT and gen_ai.is_named(fields):
        name, fields = gen_ai.SPAN, gen_ai.unnamed(fields)
    if span.status == _ERROR:
        status = "error"
        if fields.get("error.type") == (type_of(span.message) or _UNKNOWN_ERROR):
            del fields["error.type"]
        if span.message:
            fields["error"] = span.message
    is_ours = is_own and span.kind != _CLIENT
    noted = span if is_ours or not is_own else span._replace(kind=0)
    fields |= _notes(noted, details, span.message, trace_start_ns)
    return {
        "id": span.span_id,
        "parent": None if span.parent_id == root_id else span.parent_id,
        "name": clean_text(name, _NAME_CHARS),
        "offset_ms": (span.start_ns - trace_start_ns) / 1e6,
        "duration_ms": span.duration_ms,
        "status": clean_text(status, _NAME_CHARS),
        "extras": orjson.Fragment(encode(fields)),
    }


def _notes(span: Span, details: Details, error: str | None, trace_start_ns: int) -> dict[str, Any]:
    """Returns what a record has no field for, under the names that the bridge of OpenTelemetry's API has for it."""
    is_own = span.scope == OWN_SCOPE
    events = [
        {
            "name": event[0],
            "offset_ms": (event[1] - trace_start_ns) / 1e6,
            **({"attributes": event[2]} if event[2] else {}),
        }
        for event in details.events
        if not (is_own and error and _exception(event) == error)  # the export has made it of the error
    ]
    lost = {dropped(what): count for what, count in span.dropped.items()}
    if is_own and (count := lost.pop(dropped("attributes"), None)):
        lost["truncated_keys"] = count
    noted = {
        SCOPE: None if is_own else span.scope or None,
        KIND: None if is_own else _KINDS.get(span.kind),
        STATUS: "OK" if span.status == _STATUS_OK else None,
        EVENTS: events,
        LINKS: details.links,
    }
    return {**{key: value for key, value in noted.items() if value}, **lost}


def _fitted(extras: bytes, below: list[Span], made_of: Callable[[Span], dict[str, Any]]) -> tuple[bytes, bytes]:
    """Returns extras and spans as JSON that fits a row: failed spans are kept first, then the slowest."""
    encoded: list[bytes] = []  # as many as may fit; a trace may have all spans of a file
    ranks: list[tuple[bool, float, int]] = []
    size = len(extras) + len("]")
    for span in below:
        made = made_of(span)
        text = orjson.dumps(made)
        ranks.append((made["status"] == OK, -made["duration_ms"], len(text)))
        size += len(text) + 1
        if size <= _ROOM_BYTES:
            encoded.append(b"%b" % text)
    if len(encoded) == len(below):
        return extras, b"[" + b",".join(encoded) + b"]"
    extras = fit(extras, _ROOM_BYTES // 4)
    kept = _chosen(ranks, _ROOM_BYTES - len(extras) - len(',"truncated":1000000'))
    fields = orjson.loads(extras)
    before = fields.get("truncated")
    missing = len(below) - len(kept) + (before if isinstance(before, int) else 0)
    if missing:
        extras = orjson.dumps({**fields, "truncated": missing})
    return extras, b"[" + b",".join(orjson.dumps(made_of(below[at])) for at in kept) + b"]"


def _chosen(ranks: list[tuple[bool, float, int]], room: int) -> list[int]:
    """Returns the places of those that fit, in order; the first ranks go first."""
    kept: list[int] = []
    for at in sorted(range(len(ranks)), key=lambda at: ranks[at][:2]):
        if ranks[at][-1] < room:
            room -= ranks[at][-1] + 1
            kept.append(at)
    return sorted(kept)
