"""A trace as OTLP in JSON: ids, times to the nanosecond, attributes of every type, and what is failed."""

from __future__ import annotations

import json

import pytest

from hearthnet.observability import telemetry, trace
from hearthnet.observability.otel.otlp_json import export_request
from hearthnet.observability.traces.traceparent import from_w3c, root_span_id

ROW = {
    "run_id": "run", "trace_id": "01M8PB3HQC7D4KZXGR0H1X3EKY", "parent_id": "00f067aa0ba902b7", "capability": "a.b",
    "version": "1.0", "started_us": 1_786_000_000_123_456, "duration_ms": 1.5, "result": "timeout", "error": "T: late",
    "extras": {"text": "x", "flag": True, "whole": 2**53 + 1, "part": 0.5, "list": [1, None, "y"], "map": {"z": 1},
               "no": None},
    "spans": [
        {"id": "000000000000000a", "parent": None, "name": "one", "offset_ms": 0.25, "duration_ms": 1.0, "status": "ok",
         "extras": {}},
        {"id": "000000000000000b", "parent": "000000000000000a", "name": "two", "offset_ms": 0.5, "duration_ms": 0.5,
         "status": "error", "extras": {"error": "T: late"}},
        {"id": "000000000000000c", "parent": None, "name": "three", "offset_ms": 1.0, "duration_ms": 0.5,
         "status": "open", "extras": {"huge": 2**70}},
    ],
}  # fmt: skip


def spans_of(row):
    """Returns the exported spans by name, and the resource's attributes."""
    made = json.loads(json.dumps(export_request(row, "00000000000000ff", program="prog", version="2.0")))
    (resource,) = made["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    return {span["name"]: span for span in scope["spans"]}, plain(resource["resource"]["attributes"])


def plain(attributes):
    """Returns attributes as Python's values, as a reader of OTLP would make them."""

    def value(found):
        if not found:
            return None
        ((kind, inner),) = found.items()
        if kind == "intValue":
            return int(inner)
        if kind == "arrayValue":
            return [value(item) for item in inner["values"]]
        return plain(inner["values"]) if kind == "kvlistValue" else inner

    return {item["key"]: value(item["value"]) for item in attributes}


def test_ids_and_parents():
    """The trace is the root of its spans, and child of its caller's span."""
    spans, resource = spans_of(ROW)

    assert {from_w3c(span["traceId"]) for span in spans.values()} == {ROW["trace_id"]}
    assert {name: (span["spanId"], span["parentSpanId"]) for name, span in spans.items()} == {
        "a.b": ("00000000000000ff", "00f067aa0ba902b7"),
        "one": ("000000000000000a", "00000000000000ff"),
        "two": ("000000000000000b", "000000000000000a"),
        "three": ("000000000000000c", "00000000000000ff"),
    }
    assert resource == {"service.name": "prog", "service.version": "2.0", "service.instance.id": "run"}
    assert "parentSpanId" not in spans_of({**ROW, "parent_id": None})[0]["a.b"]


def test_times_are_exact():
    """Decimal strings of nanoseconds, digit for digit."""
    spans, _ = spans_of(ROW)

    assert (spans["a.b"]["startTimeUnixNano"], spans["a.b"]["endTimeUnixNano"]) == (
        "1786000000123456000",
        "1786000000124956000",
    )
    assert spans["one"]["startTimeUnixNano"] == "1786000000123706000"


def test_attributes_come_back():
    """Every type of a field; nothing is an attribute without a value."""
    spans, _ = spans_of(ROW)
    found = plain(spans["a.b"]["attributes"])

    assert found.items() >= {name: value for name, value in ROW["extras"].items() if value is not None}.items()
    assert "no" not in found
    assert (found["hearthnet.capability"], found["hearthnet.result"]) == ("a.b", "timeout")
    assert plain(spans["three"]["attributes"])["huge"] == float(2**70)


@pytest.mark.parametrize(
    ("result", "status"),
    [("ok", {"code": 1}), ("cancelled", {"code": 0}), ("timeout", {"code": 2, "message": "T: late"})],
)
def test_status(result, status):
    """What succeeded, what failed and how, and what was cancelled, which is neither."""
    assert spans_of({**ROW, "result": result})[0]["a.b"]["status"] == status


def test_status_of_spans():
    """A span that never ended has none."""
    spans, _ = spans_of(ROW)

    assert [spans[name]["status"]["code"] for name in ("one", "two", "three")] == [1, 2, 0]
    assert spans["two"]["status"]["message"] == "T: late"


def test_id_that_is_none_is_an_error():
    """Of a damaged file."""
    with pytest.raises(ValueError, match="ULID"):
        export_request({**ROW, "trace_id": "x"}, "00000000000000ff", program=None)


def test_recorded_trace(observability):
    """A trace as this program records it, with all of its spans."""
    with telemetry.open(observability) as recording:
        with trace.new_trace("job.run"), trace.span("outer", size=3), trace.span("inner"):
            pass
        (found,) = recording.traces(1)
    root_id = root_span_id(found.trace_id, found.started_us, found.started_ns)
    (resource,) = export_request(found.as_dict(), root_id, program="prog")["resourceSpans"]
    exported = resource["scopeSpans"][0]["spans"]

    assert {span["name"] for span in exported} == {"job.run", "outer", "inner"}
    by_name = {span["name"]: span for span in exported}
    assert by_name["inner"]["parentSpanId"] == by_name["outer"]["spanId"]
    assert plain(by_name["outer"]["attributes"])["size"] == 3
