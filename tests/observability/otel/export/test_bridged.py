"""Spans of OpenTelemetry's API, recorded by the bridge, as a receiver of the export has them."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace as api
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode
from support.open_telemetry import fresh_api, installed
from support.otlp import plain
from support.records import a_trace

from hearthnet.observability import trace
from hearthnet.observability.otel.export import bridged
from hearthnet.observability.otel.export.mapping import Origin, Sender
from hearthnet.observability.otel.export.otlp_json import encode as encode_json
from hearthnet.observability.otel.export.protobuf import encode

__all__ = ["fresh_api", "installed"]  # fixtures

OTHER = SpanContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, is_remote=True)
START_US = 1_786_000_000_000_000


def scopes(*records):
    """The scopes of a request with their spans, as a receiver decodes them."""
    given = ("traces", records, {"run": Origin("run", version="2.0")}, Sender())
    assert encode_json(*given)
    (resource,) = ExportTraceServiceRequest.FromString(encode(*given)).resource_spans
    return {scope.scope.name: list(scope.spans) for scope in resource.scope_spans}


def row_of(found):
    """The record of a trace, whose run is known here."""
    stored = found.as_dict()
    fields = {name: stored[name] for name in ("trace_id", "parent_id", "capability", "started_us", "result", "error")}
    texts = {name: json.dumps(stored[name]).encode() for name in ("spans", "extras")}
    return a_trace(1, **fields, **texts, duration_ms=stored["duration_ms"])


def newest():
    """The newest trace's spans by their names, and the scope of each."""
    (found,) = trace.get_recent(1)
    made = scopes(row_of(found))
    return {span.name: (name, span) for name, spans in made.items() for span in spans}


def test_span_has_what_the_api_has(installed):
    """Kind, scope, status, events with their times, links; none of it is an attribute."""
    with (
        trace.new_trace("a.b"),
        installed.start_as_current_span("get", kind=SpanKind.CLIENT, links=[Link(OTHER, {"n": 1})]) as span,
    ):
        span.add_event("retried", {"n": 2})
        span.set_attribute("http.request.method", "GET")
        span.set_status(StatusCode.OK)
    made = newest()
    scope, get = made["get"]
    _, root = made["a.b"]

    assert (scope, made["a.b"][0], get.kind, get.status.code) == ("tests", "hearthnet", 3, 1)
    assert plain(get.attributes) == {"http.request.method": "GET"}
    assert [(event.name, plain(event.attributes)) for event in get.events] == [("retried", {"n": 2})]
    assert get.start_time_unix_nano <= get.events[0].time_unix_nano <= get.end_time_unix_nano
    (link,) = get.links
    assert (int(link.trace_id.hex(), 16), int(link.span_id.hex(), 16)) == (OTHER.trace_id, OTHER.span_id)
    assert plain(link.attributes) == {"n": 1}
    assert (get.parent_span_id, root.kind) == (root.span_id, 1)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (SpanKind.INTERNAL, 1),
        (SpanKind.SERVER, 2),
        (SpanKind.CLIENT, 3),
        (SpanKind.PRODUCER, 4),
        (SpanKind.CONSUMER, 5),
    ],
)
@pytest.mark.parametrize("is_remote", [True, False])
def test_kind_of_a_root(installed, kind, number, is_remote):
    """Is what the library said, whether it has a remote parent or none."""
    context = api.set_span_in_context(NonRecordingSpan(OTHER)) if is_remote else None
    installed.start_span("job", context, kind).end()
    _, root = newest()["job"]

    assert (root.kind, root.flags) == (number, 0x301 if is_remote else 0x101)


def test_work_after_its_trace_has_no_remote_parent(installed):
    """Its parent is a span of this process: nothing crossed a border."""
    with installed.start_as_current_span("request"):
        context = context_api.get_current()
    installed.start_span("later", context).end()
    _, root = newest()["later"]

    assert (root.kind, root.flags, len(root.parent_span_id)) == (1, 0x101, 8)
    assert not [name for name in plain(root.attributes) if name.startswith("otel.")]


def test_exception_is_one_event(installed):
    """The one that was recorded; a description alone is none, and the type that a library has set stays."""
    with trace.new_trace("a.b"):
        with suppress(KeyError), installed.start_as_current_span("raised"):
            raise KeyError("x")
        with installed.start_as_current_span("said") as span:
            span.set_attribute("error.type", "503")
            span.set_status(StatusCode.ERROR, "Unavailable: later")
    made = newest()
    (_, raised), (_, said) = made["raised"], made["said"]

    assert [event.name for event in raised.events] == ["exception"]
    assert plain(raised.events[0].attributes)["exception.type"] == "KeyError"
    assert (raised.status.code, raised.status.message) == (2, "KeyError: 'x'")
    assert (said.status.message, list(said.events)) == ("Unavailable: later", [])
    assert plain(said.attributes)["error.type"] == "503"


def test_span_of_ours_that_a_library_has_written_to(installed):
    """Stays ours, with its exception; the event comes with it."""
    with suppress(ValueError), trace.new_trace("a.b"), trace.span("ours"):
        api.get_current_span().add_event("seen")
        raise ValueError("no")
    scope, made = newest()["ours"]

    assert (scope, made.kind) == ("hearthnet", 1)
    assert [event.name for event in made.events] == ["seen", "exception"]


def test_failed_server_of_the_api_is_an_error(installed):
    """Also with a result that is the caller's fault: the library said ERROR."""
    with suppress(LookupError), installed.start_as_current_span("served", kind=SpanKind.SERVER) as span:
        span.scope.fail("not_found", "nothing there")
        raise LookupError
    _, root = newest()["served"]

    assert root.status.code == 2


@pytest.mark.parametrize(
    ("extras", "events", "dropped"),
    [
        ({"otel.events": [{"name": "x", "offset_ms": 1.5}], "otel.dropped_events_count": 4}, 1, 4),
        ({"otel.events": [{"name": "x", "offset_ms": 1.5}, "[cut]", {"name": "y"}]}, 1, 2),
        ({"otel.events": "[cut]"}, 0, 1),
        ({"otel.events": None, "otel.dropped_events_count": "many"}, 0, 1),
        ({"otel.events": [{"name": 7, "offset_ms": -1e12}]}, 1, 0),
        ({"otel.events": [{"name": "x", "offset_ms": 1e16}, {"name": "y", "offset_ms": 0}]}, 1, 1),
    ],
)
def test_what_was_cut_is_counted(extras, events, dropped):
    """And costs the span nothing else."""
    record = a_trace(1, trace_id="01M8PB3HQC7D4KZXGR0H1X3EKY", started_us=START_US, extras=json.dumps(extras).encode())
    (root,) = scopes(record)["hearthnet"]

    assert (len(root.events), root.dropped_events_count) == (events, dropped)
    assert not [name for name in plain(root.attributes) if name.startswith("otel.")]


@pytest.mark.parametrize("span_id", ["00f067aa", "0" * 16, "zz", None])
def test_link_that_was_cut_is_counted(span_id):
    """A backend would refuse the whole request because of its id."""
    whole = {"trace_id": "01M8PB3HQC7D4KZXGR0H1X3EKY", "span_id": "00f067aa0ba902b7"}
    extras = json.dumps({"otel.links": [{**whole, "span_id": span_id}, whole]}).encode()
    (root,) = scopes(a_trace(1, trace_id="01M8PB3HQC7D4KZXGR0H1X3EKY", extras=extras))["hearthnet"]

    assert ([link.span_id.hex() for link in root.links], root.dropped_links_count) == (["00f067aa0ba902b7"], 1)


def test_dropped_attributes_are_added_up():
    """Those of the bridge, and of the record's own bound."""
    made = {"dropped_attributes_count": 2}
    bridged.complete(made, {"otel.dropped_attributes_count": 3}, 0)

    assert made == {"dropped_attributes_count": 5}
