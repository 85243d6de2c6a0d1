"""Rows as OTLP: what a receiver reads from the bytes, and that the same row gives the same bytes."""

from __future__ import annotations

import json
import math

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.otlp import encoded, plain, spans_in
from support.records import a_log, a_trace

from hearthnet.observability.otel.export import gen_ai
from hearthnet.observability.otel.export.mapping import Gap, Origin, Sender, request
from hearthnet.observability.otel.export.protobuf import encode
from hearthnet.observability.otel.export.values import value_of
from hearthnet.observability.otel.fields import SCOPE
from hearthnet.observability.traces.traceparent import from_w3c, root_span_id

TRACE_ID = "01M8PB3HQC7D4KZXGR0H1X3EKY"
PARENT = "00f067aa0ba902b7"
RUN = Origin("run", "node-1", "hearthnet", "2.0", 77, "node")
SENDER = Sender("kitchen", "hearthnet")


def span(name="one", number=10, **changes):
    """A span as a trace's row has it."""
    made = {"id": f"{number:016x}", "parent": None, "name": name, "offset_ms": 0.25, "duration_ms": 1.0,
            "status": "ok", "extras": {}}  # fmt: skip
    return {**made, **changes}


def a_row(spans=(), extras=None, **changes):
    """A trace with an id of its own, and these spans."""
    fields = {"trace_id": TRACE_ID, "spans": json.dumps([*spans], separators=(",", ":")).encode(),
              "extras": json.dumps(extras or {}).encode(), "started_us": 1_786_000_000_123_456}  # fmt: skip
    return a_trace(1, **{**fields, **changes})


def exported(*records, origins=None, sender=SENDER):
    """The resources of a request, as a receiver decodes them."""
    body = encode("traces", records, {"run": RUN} if origins is None else origins, sender)
    return ExportTraceServiceRequest.FromString(body).resource_spans


def spans_of(record, sender=SENDER):
    """The spans of one trace, the root first."""
    (resource,) = exported(record, sender=sender)
    return list(resource.scope_spans[0].spans)


def root_of(record, sender=SENDER):
    """The root's span."""
    return spans_of(record, sender)[0]


def log_of(record):
    """A log record as a receiver decodes it."""
    made = ExportLogsServiceRequest.FromString(encode("logs", [record], {"run": RUN}, SENDER))
    return made.resource_logs[0].scope_logs[0].log_records[0]


# --- ids, times


def test_ids_and_parents():
    """The trace is the root of its spans, and child of its caller's span; nothing is a row of zeros."""
    record = a_row([span(), span("two", 11, parent=f"{10:016x}")], parent_id=PARENT)
    root, one, two = spans_of(record)

    assert {from_w3c(made.trace_id.hex()) for made in (root, one, two)} == {TRACE_ID}
    assert root.span_id.hex() == root_span_id(record.trace_id, record.started_us, record.started_mono_ns)
    assert root.parent_span_id.hex() == PARENT
    assert (one.parent_span_id, two.parent_span_id) == (root.span_id, one.span_id)
    assert root_of(a_row()).parent_span_id == b""


def test_times_are_exact():
    """Nanoseconds without a float between, end after start whatever the duration says."""
    root, one = spans_of(a_row([span()], duration_ms=1.5))

    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (
        1_786_000_000_123_456_000,
        1_786_000_000_124_956_000,
    )
    assert one.start_time_unix_nano == 1_786_000_000_123_706_000
    backwards = root_of(a_row(duration_ms=-3_600_000.0))
    assert backwards.end_time_unix_nano == backwards.start_time_unix_nano


def test_same_row_gives_the_same_bytes():
    """What is sent twice can be recognised."""
    given = [a_row([span(extras={"b": 1, "a": 2})])], {"run": RUN}, SENDER

    assert encode("traces", *given) == encode("traces", *given)


@pytest.mark.parametrize("count", [0, 1, 2, 400])
def test_joined_pieces_are_the_whole_request(count):
    """Whatever its length, of several runs and scopes."""
    runs = {"run": RUN, "other": RUN._replace(run_id="other")}
    spans = [span(extras={"text": "x" * 40, **({SCOPE: "library"} if number % 2 else {})}) for number in range(3)]
    rows = [a_row(spans, run_id=("run", "other", "gone")[at % 3], started_us=at) for at in range(count)]
    made = ExportTraceServiceRequest.FromString(encode("traces", rows, runs, SENDER))

    assert made == ExportTraceServiceRequest(**request("traces", rows, runs, SENDER))
    assert len(spans_in(made)) == 4 * count


# --- kind, status, error.type


@pytest.mark.parametrize(
    ("changes", "kind", "flags"),
    [
        ({}, 1, 0x101),
        ({"parent_id": PARENT}, 2, 0x301),
        ({"extras": {"caller": "x"}}, 2, 0x101),
        ({"extras": {"caller": "x"}, "parent_id": PARENT}, 2, 0x301),
    ],
)
def test_kind_and_flags_of_the_root(changes, kind, flags):
    """A server where a caller is known, remote where the caller's span is."""
    root = root_of(a_row(**changes))

    assert (root.kind, root.flags) == (kind, flags)


@pytest.mark.parametrize(
    ("result", "caller", "code", "error_type"),
    [
        ("ok", None, 0, None),
        ("cancelled", None, 0, None),
        ("timeout", None, 2, "timeout"),
        ("interrupted", None, 2, "interrupted"),
        ("not_found", None, 2, "not_found"),  # of a program's own trace
        ("not_found", "x", 0, "not_found"),  # a server's span: the caller was wrong, not the server
        ("internal_error", "x", 2, "internal_error"),
        ("capacity_exceeded", "x", 2, "capacity_exceeded"),
    ],
)
def test_status_of_the_root(result, caller, code, error_type):
    """OK is never set; a message is there with ERROR only."""
    extras = {"caller": caller} if caller else {}
    root = root_of(a_row(result=result, error=None if result == "ok" else "T: late", extras=extras))

    assert (root.status.code, plain(root.attributes).get("error.type")) == (code, error_type)
    assert root.status.message == ("T: late" if code else "")


@pytest.mark.parametrize(
    ("result", "spans", "status"), [("ok", (), 200), ("not_found", (), 404), ("interrupted", (), None),
                                    ("timeout", (span("stream"),), None)],
)  # fmt: skip
def test_call_over_http(result, spans, status):
    """A call of another node has HTTP's names; the status of a stream was sent before its result was known."""
    record = a_row(spans, result=result, parent_id=PARENT, extras={"caller": "x"})
    found = plain(root_of(record).attributes)

    assert (found["http.request.method"], found["http.route"]) == ("POST", "/bus/v1/call")
    assert found.get("http.response.status_code") == status
    assert "http.route" not in plain(root_of(record._replace(parent_id=None)).attributes)


@pytest.mark.parametrize(
    ("status", "code", "extras"),
    [("ok", 0, {}), ("cancelled", 0, {}), ("open", 0, {}), ("error", 2, {"error": "E: x"})],
)
def test_status_of_spans(status, code, extras):
    """A span that failed has its error as status, as error.type and as an event, once each."""
    made = spans_of(a_row([span(status=status, extras=extras)]))[1]
    found = plain(made.attributes)

    assert (made.status.code, made.kind, made.flags) == (code, 1, 0x101)
    assert found.get("hearthnet.status") == (status if status in ("cancelled", "open") else None)
    if code:
        assert (found, made.status.message) == ({"error.type": "E"}, "E: x")
        assert [plain(event.attributes) for event in made.events] == [{"exception.type": "E", "exception.message": "x"}]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("TimeoutError: late", "TimeoutError", "late"),
        ("KeyError", "KeyError", None),
        ("the backend said: no", None, "the backend said: no"),
        ("timeout", None, "timeout"),
    ],
)
def test_exception_of_the_root(error, kind, message):
    """Its type is told by the text; a message that a program made up has none."""
    (event,) = root_of(a_row(result="internal_error", error=error)).events
    found = plain(event.attributes)

    assert (event.name, found.get("exception.type"), found.get("exception.message")) == ("exception", kind, message)


def test_exceptions_as_log_records_alone():
    """Where the settings say so, they are no events."""
    record = a_row([span(status="error", extras={"error": "E: x"})], result="timeout", error="T: x")

    assert [len(made.events) for made in spans_of(record, Sender(has_exception_events=False))] == [0, 0]


# --- attributes


def test_attributes_come_back():
    """Every type of a field; nothing is an attribute without a value; what was cut is counted."""
    extras = {"text": "ü", "flag": True, "whole": 2**53 + 1, "part": 0.5, "list": ["x", "y"], "mixed": [1, None, "y"],
              "map": {"z": [1]}, "no": None, "truncated": 3, "truncated_keys": 7, "empty": []}  # fmt: skip
    root = root_of(a_row(extras=extras, version="1.0"))
    found = plain(root.attributes)

    assert found["hearthnet.truncated_spans"] == 3
    assert root.dropped_attributes_count == 7
    assert (found["mixed"], found["map"], found["empty"]) == ('[1,null,"y"]', '{"z":[1]}', [])
    assert {name: found[name] for name in ("text", "flag", "whole", "part", "list")} == {
        name: extras[name] for name in ("text", "flag", "whole", "part", "list")
    }
    assert type(found["flag"]) is bool
    assert "no" not in found
    assert "truncated" not in found
    assert (found["hearthnet.capability"], found["hearthnet.capability.version"]) == ("a.b", "1.0")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        (-(2**63), -(2**63)),
        ("\ud800", "\\ud800"),
        (b"\xff", "\\xff"),
        ([2**70, "\ud800"], f"[{2**70}, '\\ud800']"),
        ([True, 1], "[true,1]"),
    ],
)
def test_values_at_the_edge(value, expected):
    """Whatever a field holds decodes, and its neighbours are intact."""
    made = {"resource_spans": [{"resource": {"attributes": [
        {"key": "before", "value": value_of(1)}, {"key": "it", "value": value_of(value)},
        {"key": "after", "value": value_of(math.nan)}]}}]}  # fmt: skip
    found = plain(ExportTraceServiceRequest.FromString(encoded(made)).resource_spans[0].resource.attributes)

    assert (found["before"], found["it"], math.isnan(found["after"])) == (1, expected, True)


def test_link():
    """The trace of a caller that is none of ours is a link."""
    root = root_of(a_row(extras={"link": {"trace_id": TRACE_ID, "span_id": PARENT}}))

    assert [(from_w3c(link.trace_id.hex()), link.span_id.hex()) for link in root.links] == [(TRACE_ID, PARENT)]
    assert "link" not in plain(root.attributes)


@pytest.mark.parametrize("link", ["x", {"trace_id": "x"}, {"trace_id": TRACE_ID, "span_id": 7}])
def test_field_of_the_name_is_no_link(link):
    """It is the program's, and an attribute like any other."""
    root = root_of(a_row(extras={"link": link}))

    assert not root.links
    assert "link" in plain(root.attributes)


@pytest.mark.parametrize("parent", ["caller-7", "ab", "0" * 16, "zz" * 8, "é" * 16, ""])
def test_parent_that_is_no_span_id(parent):
    """A program's own is an attribute; the trace is exported, and nothing is remote."""
    root = root_of(a_row(parent_id=parent))

    assert (root.parent_span_id, root.kind, root.flags) == (b"", 1, 0x101)
    assert plain(root.attributes)["hearthnet.parent_id"] == parent


# --- damaged rows


@pytest.mark.parametrize(
    "changes", [{"trace_id": "x"}, {"trace_id": "0" * 26}, {"spans": b"[{]"}, {"spans": b'[{"id": "z"}]'},
                {"extras": b"[]"}, {"started_us": -1}, {"started_us": 2**62}, {"duration_ms": 1e300}],
)  # fmt: skip
def test_damaged_row_costs_no_other(changes):
    """It is named, and the rows beside it are in the request; asked for alone, it is an error."""
    unmapped: list[int] = []
    good, bad = a_row()._replace(seq=1), a_row()._replace(seq=2, **changes)
    made = request("traces", [bad, good], {}, SENDER, unmapped)

    assert unmapped == [2]
    assert [len(one["scope_spans"][0]["spans"]) for one in made["resource_spans"]] == [1]
    with pytest.raises(ValueError, match="record 2 of traces"):
        request("traces", [bad], {}, SENDER)


# --- resources


def test_resource_is_that_of_the_run():
    """One for each run; the sender's name for the service is for its own program's runs."""
    origins = {"run": RUN, "other": Origin("other", None, "cron.py", "1.9", 5, "library")}
    sender = Sender("kitchen", "hearthnet", "my-node", {"deployment.environment": "home", "host.name": "x"})
    node, other = exported(a_row(), a_row(run_id="other"), origins=origins, sender=sender)
    found = plain(node.resource.attributes)

    assert found.pop("telemetry.sdk.version") == "2.0"
    assert found == {
        "deployment.environment": "home", "service.name": "my-node", "service.version": "2.0",
        "service.instance.id": "run", "host.name": "kitchen", "process.pid": 77, "hearthnet.node_id": "node-1",
        "telemetry.sdk.name": "hearthnet", "telemetry.sdk.language": "python",
    }  # fmt: skip
    assert plain(other.resource.attributes)["service.name"] == "cron.py"
    assert "service.version" not in plain(other.resource.attributes)
    assert node.scope_spans[0].scope.version == "2.0"
    assert node.schema_url == node.scope_spans[0].schema_url != ""


def test_run_that_is_not_known():
    """A row whose run was trimmed has the program's name for want of another."""
    (resource,) = exported(a_row(), origins={})

    assert plain(resource.resource.attributes)["service.instance.id"] == "run"


# --- language models


GENERATE = {"backend": "ollama", "model": "tiny", "stream": True, "queue_ms": 0.5, "ttft_ms": 250.0, "tokens_in": 11,
            "tokens_out": 3, "finish_reason": "stop", "outcome": "ok"}  # fmt: skip


def test_call_of_a_language_model():
    """By the names of gen_ai, once each; the time to the first chunk in seconds; the reasons are a list."""
    root, made = spans_of(a_row([span("generate", extras=GENERATE)], capability="llm.chat"))

    assert (made.name, made.kind, root.name) == ("chat tiny", 3, "llm.chat")
    assert plain(made.attributes) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "ollama", "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": True, "queue_ms": 0.5, "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 3, "gen_ai.response.finish_reasons": ["stop"],
        "outcome": "ok",
    }  # fmt: skip


def test_generate_of_another_capability():
    """Is a name like any other."""
    made = spans_of(a_row([span("generate", extras={"model": "x"})]))[1]

    assert (made.name, plain(made.attributes)) == ("generate", {"model": "x"})


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ('{"message": {"role": "assistant", "content": "Hi"}}', "Hi"),
        ('{"delta": "H"}\n{"delta": "i"}\n{"done": true}\n', "Hi"),
        ('{"message": {"role": "assistant", "content": "H…[cut]', None),
    ],
)
def test_conversation_where_it_was_recorded(answer, content):
    """Messages with their parts; what was cut is not half a message."""
    asked = {"input": {"messages": [{"role": "user", "content": "Hello"}]}}
    found = gen_ai.conversation({"request_body": json.dumps(asked), "answer_body": answer})

    (message,) = json.loads(found["gen_ai.input.messages"])
    assert message == {"role": "user", "parts": [{"type": "text", "content": "Hello"}]}
    assert (json.loads(found["gen_ai.output.messages"])[0]["parts"][0]["content"] if content else None) == content
    assert content or "gen_ai.output.messages" not in found


# --- log records


@pytest.mark.parametrize(
    ("level", "number"), [("debug", 5), ("info", 9), ("warning", 13), ("error", 17), ("critical", 21), ("odd", 9)]
)
def test_log_record(level, number):
    """Time, severity, text, the trace that it belongs to, and what makes it known when it comes twice."""
    made = log_of(a_log(3, level=level, trace_id=TRACE_ID, span_id=PARENT, extras=b'{"size":3}', repeats=2))

    assert (made.time_unix_nano, made.observed_time_unix_nano) == (3_000_000_000, 3_000_000_000)
    assert (made.severity_number, made.severity_text, made.body.string_value) == (number, level, "3")
    assert (from_w3c(made.trace_id.hex()), made.span_id.hex(), made.flags) == (TRACE_ID, PARENT, 1)
    assert plain(made.attributes) == {"log.record.uid": "run-3", "hearthnet.repeats": 2, "size": 3}


def test_log_record_outside_a_trace():
    """Has no ids, not ids of zeros."""
    made = log_of(a_log(3))

    assert (made.trace_id, made.span_id, made.flags) == (b"", b"", 0)


def test_traceback():
    """Once, as an attribute, with its type."""
    made = log_of(a_log(3, exc='Traceback (most recent call last):\n  File "x", line 1\nValueError: no\n'))
    found = plain(made.attributes)

    assert found["exception.type"] == "ValueError"
    assert found["exception.stacktrace"].endswith("ValueError: no\n")
    assert made.body.string_value == "3"


def test_exception_of_a_module():
    """Its type has dots, of a root too."""
    (event,) = root_of(a_row(result="internal_error", error="httpx.ConnectError: refused")).events

    assert plain(event.attributes) == {"exception.type": "httpx.ConnectError", "exception.message": "refused"}


def test_scope_is_the_logger():
    """Records of two loggers of a run share its resource."""
    body = encode("logs", [a_log(1), a_log(2, logger="y"), a_log(3)], {}, SENDER)
    (resource,) = ExportLogsServiceRequest.FromString(body).resource_logs

    assert {scope.scope.name: len(scope.log_records) for scope in resource.scope_logs} == {"x": 2, "y": 1}


def test_gap():
    """Lost records are a warning that says how many of what, and why."""
    made = log_of(Gap("run", 5, 7_000_000, "trace", "buffer_full", 12))

    assert (made.severity_number, made.event_name) == (13, "hearthnet.lost")
    assert made.body.string_value == "12 traces were lost: buffer_full"
    assert plain(made.attributes)["hearthnet.lost.count"] == 12
