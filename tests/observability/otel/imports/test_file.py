"""Files that are none of OTLP, or are hostile: each is refused with a reason, and nothing is read beyond the bounds."""

from __future__ import annotations

import gzip
import os

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hearthnet.observability.otel.imports import file as module
from hearthnet.observability.otel.imports.file import MAX_FILE_BYTES, MAX_REQUEST_BYTES, ImportRefusedError, requests

REQUEST = b'{"resourceSpans":[]}'


def given(tmp_path, content):
    """A file with this content."""
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no records"),
        (b"\n  \n", "has no records"),
        (b"not JSON\n", "request 1: it is not JSON"),
        (b"[1, 2]\n", "request 1: it is not an object"),
        (REQUEST + b"\n" + REQUEST[:-3], "request 2: it is not JSON, or cut"),
        (REQUEST[:-5] + b"\n" + REQUEST, "request 1: it is not JSON, or cut"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "request 1: it is not JSON"),
        (b'{"a": "\xff"}', "request 1: it is not JSON"),
        (gzip.compress(REQUEST, mtime=0), "it is compressed"),
        (b"\x28\xb5\x2f\xfdxxxx", "it is compressed"),
        (b"PK\x03\x04xxxx", "it is an archive"),
        (b"SQLite format 3\x00xxxx", "it is a database"),
        (b"\x00\x00", "request 1: a length before a message is cut"),
        (b"\x02\xff\xff\xff", "request 1: a length before a message is cut or too large"),
        (b"\x00\x00\x00\x09abc", "request 1: the message is cut"),
        (b"\x00\x00\x00\x03abc", "request 1: a message is neither traces nor log records"),
        (b"\x00\x00\x00\x00", "request 1: a message is neither traces nor log records"),
        (b"\x00\x00\x01\x2c" + b"\x0a\x80\x01" * 100, "request 1: a message is neither"),
    ],
)
def test_anything_else_is_refused(content, said, tmp_path):
    """With the number of the request that is at fault."""
    with pytest.raises(ImportRefusedError) as caught:
        list(requests(given(tmp_path, content)))

    assert said in caught.value.message


def test_large_file_is_not_read(tmp_path):
    """Its size says it."""
    path = given(tmp_path, REQUEST)
    os.truncate(path, MAX_FILE_BYTES + 1)

    with pytest.raises(ImportRefusedError, match="more than 256 MiB"):
        list(requests(path))


def test_long_line_is_not_read_to_its_end(tmp_path, monkeypatch):
    """However long the file may be."""
    monkeypatch.setattr(module, "MAX_REQUEST_BYTES", 1_000)
    assert MAX_REQUEST_BYTES > 1_000

    with pytest.raises(ImportRefusedError, match="request 2: it has more than"):
        list(requests(given(tmp_path, REQUEST + b"\n{" + b" " * 1_000)))


def test_pipe_is_not_waited_for(tmp_path):
    """Nor any device opened."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="pipe"):
        list(requests(tmp_path / "pipe"))


@pytest.mark.parametrize("content", [REQUEST + b"\r\n\n" + REQUEST, b'{\n "resourceSpans": [\n]}\n', b" " + REQUEST])
def test_lines_and_one_document(content, tmp_path):
    """Also one that was written for people."""
    assert {str(request) for _, request in requests(given(tmp_path, content))} == {"{'resourceSpans': []}"}


def test_messages_say_what_they_are_by_their_ids(tmp_path):
    """Fields of both signals have the same numbers; ids are hexadecimal, as in JSON."""
    spans, logs = ExportTraceServiceRequest(), ExportLogsServiceRequest()
    span = spans.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = b"\x01" * 16, b"\x02" * 8, "one"
    record = logs.resource_logs.add().scope_logs.add().log_records.add()
    record.time_unix_nano, record.trace_id, record.body.string_value = 5, b"\x01" * 16, "two"
    pieces = [message.SerializeToString() for message in (spans, logs)]
    path = given(tmp_path, b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces))

    (_, first), (_, second) = requests(path)

    assert first["resourceSpans"][0]["scopeSpans"][0]["spans"] == [
        {"traceId": "01" * 16, "spanId": "02" * 8, "name": "one"}
    ]
    assert second["resourceLogs"][0]["scopeLogs"][0]["logRecords"] == [
        {"timeUnixNano": "5", "traceId": "01" * 16, "body": {"stringValue": "two"}}
    ]


@pytest.mark.parametrize("part", [b'{"":0},', b"[[],\n1],", b"{},", b"1,"])
def test_request_that_would_take_much_memory(part, tmp_path, monkeypatch):
    """Is refused before it is parsed: two bytes may become an object of 300. The hint is about its size."""
    parsed = []
    monkeypatch.setattr(module.orjson, "loads", parsed.append)

    with pytest.raises(ImportRefusedError, match="request 1: it has more than 1,000,000 values") as caught:
        list(requests(given(tmp_path, b'{"x":[' + part * 1_000_001 + b"1]}")))

    assert "smaller requests" in caught.value.hint
    assert parsed == []


def a_message(within):
    """A message of one span, with these fields after its ids."""
    span = b"\x0a\x10" + b"\x01" * 16 + b"\x12\x08" + b"\x02" * 8 + within
    request = ExportTraceServiceRequest.FromString(b"")
    request.resource_spans.add().scope_spans.add().spans.add().MergeFromString(span)
    body = request.SerializeToString()
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("field", [b"\x4a\x00", b"\x5a\x00"], ids=["attributes", "events"])
def test_message_that_would_take_much_memory(field, tmp_path):
    """Is refused before it becomes objects; the hint is about its size."""
    with pytest.raises(ImportRefusedError, match="request 1: it has more than 1,000,000 values") as caught:
        list(requests(given(tmp_path, a_message(field * 1_000_001))))

    assert "smaller requests" in caught.value.hint


def test_large_message_is_not_parsed(tmp_path):
    """Of nothing but empty fields it would take 45 times its size."""
    with pytest.raises(ImportRefusedError, match="request 1: the message has more than 8 MiB"):
        list(requests(given(tmp_path, (8 * 2**20 + 1).to_bytes(4, "big") + b"\x0a\x00" * (4 * 2**20 + 1))))
