"""Ordinary traces become bytes without `mapping.py`: the same message that it makes of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.otlp import encoded, spans_in
from support.records import a_trace

from hearthnet.observability.otel.export import protobuf
from hearthnet.observability.otel.export.mapping import Origin, Sender, request

TRACE_ID = "01M8PB3HQC7D4KZXGR0H1X3EKY"
PARENT = "00f067aa0ba902b7"
ORIGINS = {"run": Origin("run", "node-1", "hearthnet", "2.0", 77, "node")}
SENDER = Sender("kitchen", "hearthnet")


def mostly(usual, *others):
    """The usual value nine times of ten, which most traces need to be ordinary."""
    return st.sampled_from([usual] * 9 + [st.sampled_from(others)]).flatmap(lambda chosen: chosen)


ids = mostly(st.just("0123456789abcdef"), PARENT, "0" * 16, "none", "")
texts = st.text(max_size=5) | st.just("Zähler")
numbers = mostly(st.floats(0, 1e9), 0, -1.0, 2**63, 1e300)
values = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=200)
)  # fmt: skip
values = mostly(values, [1, 2], {"of": 1}, 2**63, -(2**63) - 1)
keys = mostly(
    texts | st.just("caller"),
    "link", "truncated", "truncated_keys", "hearthnet.result", "http.route", "error.type", "otel.kind", "otel.events",
)  # fmt: skip
extras = st.dictionaries(keys, values, max_size=3)
spans = st.fixed_dictionaries(
    {"id": ids, "parent": st.none() | ids, "name": texts | st.just("stream"), "offset_ms": numbers,
     "duration_ms": numbers, "status": mostly(st.just("ok"), "error", "open"), "extras": extras}
)  # fmt: skip
rows = st.builds(
    lambda made, fields, **columns: a_trace(
        1, spans=json.dumps(made).encode(), extras=json.dumps(fields).encode(), **columns
    ),
    st.lists(spans, max_size=3),
    extras,
    trace_id=mostly(st.just(TRACE_ID), "0" * 26, "none"),
    parent_id=st.none() | ids,
    capability=mostly(texts, "llm.chat"),
    version=st.none() | st.just("1.0"),
    started_us=mostly(st.integers(0, 2**53), -1, 2**62, 2**64),
    started_mono_ns=st.integers(0, 2**62),
    duration_ms=numbers,
    result=mostly(st.sampled_from(["ok", "cancelled"]), "timeout", "interrupted", "not_found"),
    error=mostly(st.none(), "ValueError: late"),
)


def a_row(made=(), fields=None, **columns):
    """A trace with these spans and extras."""
    of_columns = {"trace_id": TRACE_ID, "started_us": 1_786_000_000_123_456, **columns}
    return a_trace(1, spans=json.dumps(made).encode(), extras=json.dumps(fields or {}).encode(), **of_columns)


def a_span(**fields):
    """A span as a trace's row has it."""
    return {"id": "0123456789abcdef", "parent": None, "name": "handle", "offset_ms": 0.25, "duration_ms": 1.0,
            "status": "ok", "extras": {"model": "tiny", "size": 3}, **fields}  # fmt: skip


def as_decoded(body):
    """A request as a receiver decodes it; the order of attributes means nothing."""
    message = ExportTraceServiceRequest.FromString(body)
    for span in spans_in(message):
        span.attributes.sort(key=lambda attribute: attribute.key)
    return message


@given(rows)
@example(a_row([a_span(), a_span(id=PARENT, parent="0123456789abcdef")], {"n": -1, "x": 0.5, "is": True, "": ""}))
@example(a_row([a_span(name="stream")], {"caller": "node-2"}, parent_id=PARENT))
@example(a_row([a_span()], {"caller": None}, parent_id=PARENT, result="cancelled"))
def test_bytes_are_those_of_the_mapping(row):
    """Whatever a trace holds, and whichever way it goes: the same spans, or skipped by either."""
    skipped, expected_skipped = [], []
    body = protobuf.encode("traces", [row], ORIGINS, SENDER, skipped)
    expected = encoded(request("traces", [row], ORIGINS, SENDER, expected_skipped))

    assert skipped == expected_skipped
    assert as_decoded(body) == as_decoded(expected)


ORDINARY = [
    a_row([a_span()]),
    a_row([a_span(extras={"text": "ü" * 200, "none": None, "at": 1.5, "is": False, "big": -(2**63)})]),
    a_row([a_span(name="stream")], {"caller": "node-2"}, parent_id=PARENT, version="1.0"),
    a_row(parent_id=PARENT, result="cancelled"),
]


@pytest.mark.parametrize("row", ORDINARY)
def test_ordinary_trace_is_not_mapped_again(row, monkeypatch):
    """What such traces have in common is mapped once; the next ones are spliced into it."""
    first = protobuf.encode("traces", [row], ORIGINS, SENDER)
    monkeypatch.setattr(protobuf, "mapped", lambda *_: pytest.fail("it was mapped"))
    later = row._replace(started_us=row.started_us + 1)

    assert protobuf.encode("traces", [row], ORIGINS, SENDER) == first
    assert len(spans_in(as_decoded(protobuf.encode("traces", [later], ORIGINS, SENDER)))) == len(
        spans_in(as_decoded(first))
    )


@pytest.mark.parametrize(
    "row",
    [
        a_row(result="timeout", error="TimeoutError: late"),
        a_row([a_span(status="error")]),
        a_row([a_span(extras={"otel.kind": "client"})]),
        a_row([a_span(extras={"truncated_keys": 2})]),
        a_row([a_span(extras={"of": [1, 2]})]),
        a_row([], {"hearthnet.result": "its own"}),
        a_row([], {"big": 2**63}),
        a_row(parent_id="job-7"),
        a_row(capability="llm.chat"),
    ],
)
def test_unusual_trace_is_mapped(row, monkeypatch):
    """By the one table of which field becomes which."""
    mapped = []
    monkeypatch.setattr(protobuf, "mapped", lambda *given: mapped.append(given) or iter(()))
    protobuf.encode("traces", [row], ORIGINS, SENDER)

    assert [given[1] for given in mapped] == [[row]]


def test_names_without_number_take_bounded_memory():
    """A program that makes a capability of each of its ids."""
    for number in range(2_000):
        protobuf.encode("traces", [a_row(capability=f"t.{number}")], ORIGINS, SENDER)

    kept = protobuf._common_of_root.cache_info()
    assert kept.currsize == kept.maxsize
