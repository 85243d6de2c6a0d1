"""What a file holds: requests that are not what they must be are refused as a whole."""

from __future__ import annotations

import json

import pytest

from hearthnet.observability.otel.export.mapping import Gap
from hearthnet.observability.otel.imports import contents as module
from hearthnet.observability.otel.imports.contents import load
from hearthnet.observability.otel.imports.file import ImportRefusedError
from hearthnet.observability.records.stored import column_types

SPAN = {
    "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "00f067aa0ba902b7", "name": "x",
    "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000001000000",
}  # fmt: skip
LOG = {"timeUnixNano": "1700000000000000000", "body": {"stringValue": "x"}}


def attributes(**fields):
    """Attributes of text."""
    return [{"key": key.replace("_", "."), "value": {"stringValue": value}} for key, value in fields.items()]


def of_spans(*spans, **resource):
    """A request of spans."""
    return {
        "resourceSpans": [{"resource": {"attributes": attributes(**resource)}, "scopeSpans": [{"spans": list(spans)}]}]
    }


def of_logs(*records, **resource):
    """A request of log records."""
    of = {"attributes": attributes(**resource)}
    return {"resourceLogs": [{"resource": of, "scopeLogs": [{"scope": {"name": "x"}, "logRecords": list(records)}]}]}


def loaded(tmp_path, *requests):
    """What a file with these requests holds."""
    path = tmp_path / "file.jsonl"
    path.write_text("\n".join(map(json.dumps, requests)), "utf-8")
    return load(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"traceId": "0" * 32}, "traceId is not 32"), ({"traceId": "xyz"}, "traceId is not 32"),
        ({"traceId": 5}, "traceId is not text"), ({"traceId": None}, "no traceId"), ({"spanId": ""}, "no spanId"),
        ({"spanId": "0" * 16}, "spanId is not 16"), ({"spanId": "00f067aa0ba902b\u0663"}, "spanId is not 16"),
        ({"parentSpanId": "../../etc/passwd"}, "parentSpanId is not 16"), ({"name": ["x"]}, "name is not text"),
        ({"startTimeUnixNano": "0"}, "startTimeUnixNano is missing"), ({"startTimeUnixNano": "-5"}, "startTime"),
        ({"startTimeUnixNano": 2**64 - 1, "endTimeUnixNano": str(2**64)}, "endTimeUnixNano is not a number"),
        ({"startTimeUnixNano": "9" * 5_000}, "startTimeUnixNano is not a number"),
        ({"startTimeUnixNano": 1.5}, "startTimeUnixNano is not a number"), ({"kind": "SERVER"}, "kind is not a number"),
        ({"startTimeUnixNano": True}, "startTimeUnixNano is not a number"), ({"status": 2}, "status is not an object"),
        ({"attributes": {"a": 1}}, "attributes is not a list"), ({"attributes": [1]}, "attributes is not a list"),
        ({"attributes": [{"key": 1}]}, "key is not text"), ({"events": "none"}, "events is not a list"),
        ({"attributes": [{"key": "a", "value": 5}]}, "value is not one value"),
        ({"attributes": [{"key": "a", "value": {"intValue": "--5"}}]}, "intValue is not a value"),
        ({"attributes": [{"key": "a", "value": {"boolValue": 1}}]}, "boolValue is not a value"),
        ({"attributes": [{"key": "a", "value": {"arrayValue": []}}]}, "arrayValue is not an object"),
        ({"attributes": [{"key": "a", "value": {"pyValue": "x"}}]}, "pyValue is not a value"),
        ({"links": [{"traceId": "5"}]}, "traceId is not 32"), ({"events": [{"name": "x"}]}, "timeUnixNano is missing"),
    ],
)  # fmt: skip
def test_span_that_is_none_is_refused(changes, said, tmp_path):
    """With the field that is at fault."""
    with pytest.raises(ImportRefusedError) as caught:
        loaded(tmp_path, of_spans(SPAN), of_spans(SPAN | {"spanId": "00f067aa0ba902b8"} | changes))

    assert said in caught.value.message


WHOLE = {
    **of_spans(
        SPAN | {
            "kind": 2, "flags": 0x300, "parentSpanId": "00f067aa0ba902b9", "status": {"code": 2, "message": "E: x"},
            "events": [{"name": "exception", "timeUnixNano": "1700000000000000000", "attributes": attributes(a_b="c")}],
            "links": [{"traceId": SPAN["traceId"], "spanId": SPAN["spanId"], "attributes": attributes(a_b="c")}],
            "droppedAttributesCount": 1,
            "attributes": attributes(
                hearthnet_result="timeout", hearthnet_capability="a", http_route="/bus/v1/call", error_type="timeout"
            ),
        },
        SPAN | {
            "spanId": "00f067aa0ba902b8", "parentSpanId": SPAN["spanId"], "kind": 3, "status": {"code": 2},
            "attributes": attributes(error_type="x", **{"gen_ai.operation.name": "chat", "gen_ai.provider.name": "y"}),
        },
        service_name="a", telemetry_sdk_name="hearthnet", service_instance_id="run",
    ),
    **of_logs(
        LOG | {
            "severityNumber": 9, "severityText": "info", "eventName": "hearthnet.lost", "traceId": SPAN["traceId"],
            "attributes": [
                *attributes(hearthnet_lost_kind="trace", hearthnet_lost_reason="x", exception_stacktrace="E: x"),
                {"key": "hearthnet.lost.count", "value": {"intValue": "5"}},
                {"key": "hearthnet.repeats", "value": {"intValue": "5"}},
            ],
        },
        telemetry_sdk_name="hearthnet", process_pid="5",
    ),
}  # fmt: skip
JUNK = [
    None, -1, 2**64, "\x00\x1b[2J" * 99, [[]], {}, {"intValue": 2**64 - 1},
    {"arrayValue": {"values": [{"stringValue": "x"}, {}]}},
]  # fmt: skip


def places(part, way=()):
    """The way to each part of a document."""
    yield way
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, item in items:
        yield from places(item, (*way, key))


def replaced(part, way, junk):
    """The document with something else at one place."""
    if not way:
        return junk
    copy = part.copy()
    copy[way[0]] = replaced(part[way[0]], way[1:], junk)
    return copy


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_anything_anywhere(junk, tmp_path, monkeypatch):
    """Is refused, or becomes records of the types that their columns have."""
    loaded(tmp_path, WHOLE)
    for way in list(places(WHOLE))[1:]:
        document = replaced(WHOLE, way, junk)
        monkeypatch.setattr(module, "requests", lambda _, document=document: [(1, document)])
        try:
            found = load(tmp_path)
        except ImportRefusedError:
            continue
        for record in (*found.traces, *found.logs):
            if not isinstance(record, Gap):
                types = column_types(type(record)).items()
                assert all(isinstance(getattr(record, name), kinds) for name, kinds in types), (way, record)
                assert isinstance(json.loads(record.extras), dict)
                assert all(-(2**63) <= item < 2**63 for item in record if isinstance(item, int))


def test_span_that_is_its_own_parent(tmp_path):
    """Is refused: nothing is below it, and it is below nothing."""
    with pytest.raises(ImportRefusedError, match="each other's parents"):
        loaded(tmp_path, of_spans(SPAN | {"parentSpanId": SPAN["spanId"]}))


@pytest.mark.parametrize(
    "request_", [{}, {"spans": []}, {"resourceSpans": 5}, {"resourceSpans": [{"resource": [1]}]}, {"resourceLogs": [5]}]
)
def test_request_that_is_none_is_refused(request_, tmp_path):
    """Also one that has nothing of what is read."""
    with pytest.raises(ImportRefusedError, match="cannot be imported: request 1"):
        loaded(tmp_path, request_)


def test_deep_value_is_refused(tmp_path):
    """Before the interpreter's stack ends."""
    value = {"stringValue": "x"}
    for _ in range(50):
        value = {"arrayValue": {"values": [value]}}
    with pytest.raises(ImportRefusedError, match="nested too deep"):
        loaded(tmp_path, of_spans(SPAN | {"attributes": [{"key": "a", "value": value}]}))


@pytest.mark.parametrize("name", ["_SPANS", "_LOGS", "_RUNS", "_TRACES"])
def test_more_than_a_store_holds_is_refused(name, tmp_path, monkeypatch):
    """With the way to a smaller file; nothing of one's own would be evicted, but some of these would."""
    monkeypatch.setattr(module, name, getattr(module, name)._replace(number=1))
    other = SPAN | {"spanId": "00f067aa0ba902b8"}

    with pytest.raises(ImportRefusedError, match="has more than 1 ") as caught:
        loaded(tmp_path, of_spans(SPAN, other, service_name="a"), of_logs(LOG, LOG, service_name="b"))
    assert "--since" in caught.value.hint


def test_nothing_but_metrics_is_refused(tmp_path):
    """And told of, beside records."""
    with pytest.raises(ImportRefusedError, match="has no traces and no log records"):
        loaded(tmp_path, {"resourceMetrics": []})

    assert loaded(tmp_path, {"resourceMetrics": []}, of_spans(SPAN)).metrics == 1


def test_each_resource_is_a_run(tmp_path):
    """The same attributes are the same run, in any request; an instance of another tool is no identity by itself."""
    found = loaded(
        tmp_path,
        of_spans(SPAN, service_name="a", service_instance_id="1"),
        of_logs(LOG, service_name="a", service_instance_id="1"),
        of_spans(SPAN, service_name="b", service_instance_id="1"),
    )

    assert sorted(origin.program for origin in found.origins.values()) == ["a", "b"]
    assert len({record.run_id for record in (*found.traces, *found.logs)}) == 2
    assert found.repeated == 0


@pytest.mark.parametrize("instance", ["", " ", "../../x", "a b", "x\n", "\u202e", "x" * 65])
def test_run_of_ours_has_an_id_that_is_one(instance, tmp_path):
    """Anything else is no id that this project makes."""
    found = loaded(tmp_path, of_spans(SPAN, telemetry_sdk_name="hearthnet", service_instance_id=instance))

    (run_id,) = found.origins
    assert (run_id == instance) == (instance == "../../x")  # which is no path anywhere


def test_numbers_are_unique_in_a_run(tmp_path):
    """Those that log records have stay; the others come after."""
    own = {"telemetry_sdk_name": "hearthnet", "service_instance_id": "run"}
    numbered = LOG | {"attributes": [{"key": "log.record.uid", "value": {"stringValue": "run-7"}}]}
    found = loaded(tmp_path, of_spans(SPAN, **own), of_logs(numbered, numbered, LOG, **own))

    assert [record.number for record in (*found.traces, *found.logs)] == [8, 7, 9]
    assert found.repeated == 1


def test_traces_that_no_store_holds_are_not_made(tmp_path, monkeypatch):
    """A file of 200,000 is refused as soon as one more than the ring's is there."""
    made = []
    monkeypatch.setattr(module, "_TRACES", module._TRACES._replace(number=3))
    monkeypatch.setattr(module.spans, "_trace", lambda *of: made.append(of))

    with pytest.raises(ImportRefusedError, match="more than 3 traces"):
        loaded(tmp_path, of_spans(*(SPAN | {"spanId": f"{at:016x}"} for at in range(1, 10))))
    assert len(made) == 4
