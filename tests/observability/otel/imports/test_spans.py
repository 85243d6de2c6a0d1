"""Spans back to traces: those of the export as they were, those of other tools as far as they go."""

from __future__ import annotations

import tracemalloc

import orjson
import pytest
from support.records import a_trace

from hearthnet.constants import MAX_TRACE_ROW_BYTES
from hearthnet.observability.otel.export.mapping import Sender, mapped
from hearthnet.observability.otel.export.otlp_json import as_json
from hearthnet.observability.otel.imports.spans import read, traces
from hearthnet.observability.store.rows import as_dict

ID = "01M8PB3HQC7D4KZXGR0H1X3EKY"
START_US = 1_786_000_000_123_456


def a_span(number, **changes):
    """A span as a row has it."""
    span = {
        "id": f"{number:016x}", "parent": None, "name": "step", "offset_ms": 0.25, "duration_ms": 0.5, "status": "ok",
        "extras": {},
    }  # fmt: skip
    return span | changes


def row(spans=(), extras=None, **changes):
    """A trace as a row has it."""
    fields = {"trace_id": ID, "started_us": START_US, "spans": orjson.dumps(list(spans))}
    return a_trace(1, extras=orjson.dumps(extras or {}), **(fields | changes))


def exported(*rows, sender=None):
    """The spans that the export makes of rows, as the file has them."""
    return [(run, scope, as_json(fields)) for run, scope, fields in mapped("traces", rows, sender or Sender())]


def foreign(number, **changes):
    """A span of another tool."""
    fields = {
        "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": f"{number:016x}", "name": "GET /", "kind": 2,
        "startTimeUnixNano": "1700000000000000123", "endTimeUnixNano": "1700000000001500123",
    }  # fmt: skip
    return read("run", "flask", fields | changes)


def back(*rows):
    """The rows that are made of what the export makes of rows."""
    made, repeated = traces(read(*one) for one in exported(*rows))
    assert repeated == 0
    return made


def decoded(record):
    """A record, its JSON decoded, without its number, which is not exported."""
    return as_dict(record) | {"number": 0, "seq": 0}


@pytest.mark.parametrize(
    "record",
    [
        row(),
        row([a_span(1, extras={"a": 1, "b": 0.5, "c": [1, 2], "d": False, "e": ""}), a_span(2, parent=f"{1:016x}")]),
        row([a_span(1, status="error", extras={"error": "E: late"}), a_span(2, status="open")]),
        row([a_span(1, status="error", extras={"error.type": "mine", "error": "no type"})]),
        row(result="timeout", error="TimeoutError: late", notable=1, version="1.0"),
        row(result="not_found", error="none of this name", notable=1, parent_id="00f067aa0ba902b7"),
        row(result="interrupted", notable=1),
        row(result="cancelled", parent_id="a program's own"),
        row(extras={"caller": "x", "truncated": 3, "truncated_keys": 2}, parent_id="00f067aa0ba902b7"),
        row(extras={"link": {"trace_id": ID, "span_id": "00f067aa0ba902b7"}}),
        row(extras={"otel.parent_is_remote": False}, parent_id="00f067aa0ba902b7"),
        row(
            [a_span(1, name="generate", extras={"model": "tiny", "tokens_in": 3, "ttft_ms": 250, "backend": "hf_api"})],
            capability="llm.chat",
        ),
        row(
            [
                a_span(
                    1,
                    status="error",
                    extras={
                        "otel.scope.name": "requests",
                        "otel.kind": "client",
                        "otel.events": [{"name": "exception", "offset_ms": 0.5, "attributes": {"exception.type": "E"}}],
                        "otel.links": [{"trace_id": ID, "span_id": "00f067aa0ba902b7", "attributes": {"x": 1}}],
                        "otel.dropped_events_count": 4,
                        "error": "E",
                    },
                )
            ]
        ),
        row(extras={"otel.scope.name": "flask", "otel.kind": "server", "otel.status_code": "OK"}),
        row(started_mono_ns=2**55 + 1, duration_ms=12_345.678901),
    ],
)
def test_export_and_back_is_the_same(record):
    """Ids, times, results, parents, events, links, and the clock that the root's id was made of."""
    (made,) = back(record)

    assert decoded(made) == decoded(record)


def test_order_is_that_of_the_file():
    """Also of two visits of one trace, each with its own spans."""
    rows = [
        row([a_span(1)], capability="first"),
        row([], trace_id="01M8PB3HQC7D4KZXGR0H1X3EKZ", capability="second"),
        row([a_span(2)], capability="third", started_us=START_US + 1_000_000),
    ]

    assert [(made.capability, len(as_dict(made)["spans"])) for made in back(*rows)] == [
        ("first", 1), ("second", 0), ("third", 1),
    ]  # fmt: skip


def test_span_whose_parent_was_cut_stays_in_its_trace():
    """Its parent did not fit the row: it is no trace of its own."""
    record = row([a_span(2, parent=f"{1:016x}")])
    (made,) = back(record)

    assert decoded(made) == decoded(record)


def test_spans_of_another_tool():
    """One without a parent here is a trace; those below it are its spans, whatever their order."""
    child = foreign(2, parentSpanId=f"{1:016x}", name="SELECT", kind=3, status={"code": 2, "message": "no table"})
    (made,), _ = traces([child, foreign(1, status={"code": 2}, parentSpanId="00f067aa0ba902b7", flags=0x300)])

    assert (made.capability, made.result, made.parent_id) == ("GET /", "internal_error", "00f067aa0ba902b7")
    assert (made.started_us, made.duration_ms) == (1_700_000_000_000_000, 1.5)
    assert as_dict(made)["extras"] | {"otel.span_id": 0} == {
        "otel.scope.name": "flask", "otel.kind": "server", "otel.span_id": 0,
    }  # fmt: skip
    (span,) = as_dict(made)["spans"]
    assert (span["parent"], span["name"], span["status"]) == (None, "SELECT", "error")
    assert span["extras"] == {"error": "no table", "otel.scope.name": "flask", "otel.kind": "client"}


def test_remote_parent_begins_a_trace_of_its_own():
    """A program that calls itself has both sides in one file."""
    made, _ = traces([foreign(1), foreign(2, parentSpanId=f"{1:016x}", flags=0x300)])

    assert [item.parent_id for item in made] == [None, f"{1:016x}"]


@pytest.mark.parametrize("length", [2, 3, 5_000])
def test_spans_that_are_each_others_parents(length):
    """Are refused, however long the circle is."""
    circle = [foreign(1 + at, parentSpanId=f"{1 + (at + 1) % length:016x}") for at in range(length)]

    with pytest.raises(ValueError, match="each other's parents"):
        traces(circle)


def test_long_chain_is_followed():
    """By a loop: it may be longer than the interpreter's stack."""
    chain = [foreign(1), *(foreign(at, parentSpanId=f"{at - 1:016x}") for at in range(2, 5_000))]
    (made,), _ = traces(reversed(chain))

    assert as_dict(made)["extras"]["truncated"] > 4_000
    assert len(made.spans) + len(made.extras) < MAX_TRACE_ROW_BYTES


def test_span_that_comes_twice_is_taken_once():
    """The first counts."""
    made, repeated = traces([foreign(1), foreign(1, name="other")])

    assert ([item.capability for item in made], repeated) == (["GET /"], 1)


def test_secrets_and_long_texts():
    """Are redacted and cut as in a record that is made here; names of any characters stay valid."""
    attribute = {"key": "password", "value": {"stringValue": "hunter2-hunter2"}}
    (made,), _ = traces([foreign(1, name="x\u0000\u001b[31m" * 100, attributes=[attribute])])

    assert b"hunter2" not in made.extras
    assert len(made.capability.encode()) <= 64


def test_failed_spans_are_kept_when_not_all_fit():
    """And the others are counted, with those that were cut before."""
    spans = [foreign(1)]
    spans += [foreign(at, parentSpanId=f"{1:016x}", name="n" * 100) for at in range(2, 100)]
    spans.append(foreign(100, parentSpanId=f"{1:016x}", name="failed", status={"code": 2}))
    (made,), _ = traces(spans)

    kept = as_dict(made)
    assert "failed" in [span["name"] for span in kept["spans"]]
    assert len(kept["spans"]) + kept["extras"]["truncated"] == 99


def test_details_are_kept_small():
    """As objects a span of many small events takes 15 times what it has in the file; a file may have 200,000 spans."""
    event = {"timeUnixNano": "1"}
    tracemalloc.start()
    kept = [foreign(at, events=[event] * 60, attributes=[]) for at in range(1, 101)]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert used < 3 * len(kept) * len(orjson.dumps([event] * 60))


def test_events_that_no_record_holds_are_counted():
    """The first ones are kept; with those that were dropped before."""
    events = [{"name": str(at), "timeUnixNano": "1700000000000000123"} for at in range(70)]
    (made,), _ = traces([foreign(1, events=events, droppedEventsCount=2)])

    kept = as_dict(made)["extras"]
    assert [event["name"] for event in kept["otel.events"]] == [str(at) for at in range(64)]
    assert kept["otel.dropped_events_count"] == 8
