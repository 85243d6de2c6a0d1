"""The JSON of OTLP: byte for byte as in a file that was checked by hand, and as `opentelemetry-proto` reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.otlp import encoded, from_json
from support.records import a_log

from hearthnet.observability import telemetry, trace
from hearthnet.observability.otel.export.mapping import Gap, Origin, Sender, request
from hearthnet.observability.otel.export.otlp_json import as_json, encode, export_request
from hearthnet.observability.otel.export.values import value_of
from hearthnet.observability.records.stored import TraceRecord

GOLDEN = Path(__file__).parent / "golden.json"
ORIGIN = Origin("run", "node-1", "hearthnet", "2.0", 77, "node")
SENDER = Sender("kitchen", "hearthnet", None, {"deployment.environment": "home"})
ROW = TraceRecord(
    9, "run", 4, "01M8PB3HQC7D4KZXGR0H1X3EKY", "00f067aa0ba902b7", "llm.chat", "1.0", 1_786_000_000_123_456, 5, 1.5,
    "timeout", "TimeoutError: late", 1,
    json.dumps([
        {"id": "000000000000000a", "parent": None, "name": "queue", "offset_ms": 0.25, "duration_ms": 1.0,
         "status": "ok", "extras": {"backend": "ollama"}},
        {"id": "000000000000000b", "parent": "000000000000000a", "name": "generate", "offset_ms": 0.5,
         "duration_ms": 0.5, "status": "error", "extras": {"model": "tiny", "ttft_ms": 250, "error": "E: late"}},
        {"id": "000000000000000c", "parent": None, "name": "three", "offset_ms": 1.0, "duration_ms": 0.5,
         "status": "open", "extras": {"huge": 2**53 + 1, "flag": False, "none": None, "list": [1, 2], "zero": 0}},
    ]).encode(),
    b'{"caller": "x", "part": 0.5, "truncated": 2}',
)  # fmt: skip


def given():
    """What a request of either kind is made of, with whatever a row can have."""
    logs = [
        a_log(3, trace_id=ROW.trace_id, span_id="000000000000000a", level="error", exc="ValueError: x", repeats=1),
        Gap("run", 5, 7_000_000, "trace", "buffer_full", 12),
    ]
    origins = {"run": ORIGIN}
    return ("traces", [ROW], origins, SENDER), ("logs", logs, origins, SENDER)


def documents():
    """The fields of both requests."""
    return [request(*one) for one in given()]


def test_golden_file():
    """Hexadecimal ids, numbers of enums, 64-bit integers as text: as written down, and checked, once."""
    made = [as_json(document) for document in documents()]

    assert made == json.loads(GOLDEN.read_text("utf-8"))


@pytest.mark.parametrize("which", [0, 1])
def test_json_and_protobuf_say_the_same(which):
    """The protocol's own reader makes equal messages of both."""
    document = documents()[which]

    assert json.loads(encode(*given()[which])) == as_json(document)
    assert from_json(encode(*given()[which])).SerializeToString(deterministic=True) == encoded(document)


@pytest.mark.parametrize(("value", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_numbers_that_json_lacks(value, text):
    """Null instead would have the whole batch refused."""
    assert as_json(value_of(value)) == {"doubleValue": text}


@pytest.mark.parametrize("value", [False, 0, 0.0, "", []])
def test_value_that_is_a_default(value):
    """Is there all the same: an attribute without a value would be another thing."""
    assert as_json({"value": value_of(value)})["value"]


def test_id_that_is_none_is_an_error():
    """Of a damaged file."""
    with pytest.raises(ValueError, match="ULID"):
        export_request(ROW._replace(trace_id="x"), ORIGIN)


def test_recorded_trace(observability):
    """A trace as this program records it, with all of its spans."""
    with telemetry.open(observability) as recording:
        with trace.new_trace("job.run"), trace.span("outer", size=3), trace.span("inner"):
            pass
        (found,) = recording.find(1, telemetry.ANY)
    made = from_json(json.dumps(export_request(found, ORIGIN)).encode())
    assert isinstance(made, ExportTraceServiceRequest)
    by_name = {span.name: span for span in made.resource_spans[0].scope_spans[0].spans}

    assert set(by_name) == {"job.run", "outer", "inner"}
    assert by_name["inner"].parent_span_id == by_name["outer"].span_id
    assert by_name["outer"].parent_span_id == by_name["job.run"].span_id
