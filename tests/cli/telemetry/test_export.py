"""`hearthnet telemetry export`: files that another program reads, requests that a backend takes, and exit codes."""

from __future__ import annotations

import json
import os
import stat
import sys

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.otlp import Response, from_json, logs_in, partial, receiving, spans_in
from support.ports import reserve_port
from support.records import a_log, a_trace
from support.searched import write

from hearthnet.cli.main import _run
from hearthnet.locations import locate
from hearthnet.observability.otel.export import delivery
from hearthnet.observability.otel.export.route import Serial

ID = "01M8PB3HQC7D4KZXGR0H1X3E{:02X}"


@pytest.fixture
def export(capfdbinary, monkeypatch):
    """Runs the command; returns exit code, standard output and standard error."""
    monkeypatch.setattr(delivery, "_FIRST_WAIT_S", 0.01)

    def run(*arguments):
        code = _run(["telemetry", "export", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return run


@pytest.fixture(autouse=True)
def store():
    """Forty traces, one a second, and two log records of one of them."""
    made = [a_trace(n, trace_id=ID.format(n), capability=f"t.{n}") for n in range(1, 41)]
    logs = [a_log(41, trace_id=ID.format(7), msg="one"), a_log(42, msg="two"), a_log(43, logger="httpx", msg="own")]
    return write(locate().data_dir / "telemetry.db", *made, *logs)


def lines_of(text):
    """The requests of a file in JSON."""
    return [from_json(line) for line in text.splitlines()]


def test_everything_as_json(export):
    """A request a line, traces before log records; a remark on standard error."""
    code, out, err = export()
    traces, logs = lines_of(out)

    assert (code, err) == (0, "exported 40 traces, 2 log records\n")
    assert [span.name for span in spans_in(traces)] == [f"t.{n}" for n in range(1, 41)]
    assert [record.body.string_value for record in logs_in(logs)] == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "traces", "logs"),
    [
        (["--trace", ID.format(7)], 1, 1),
        (["--trace", ID.format(0)[:25].lower()], 15, 1),
        (["--only", "logs"], 0, 2),
        (["--since", "1970-01-01T00:00:31Z", "--only", "traces"], 10, 0),
        (["--until", "1970-01-01T00:00:03Z"], 2, 0),
    ],
)
def test_what_is_chosen(export, arguments, traces, logs):
    """By time, by trace, by kind; an id may be its beginning, in either case."""
    code, out, _ = export(*arguments)
    made = lines_of(out)

    assert code == 0
    assert sum(len(spans_in(one)) for one in made) == traces
    assert sum(len(logs_in(one)) for one in made) == logs


def test_protobuf_in_a_file(export, tmp_path):
    """Each message behind its length; the file is private, and whole or not there."""
    file = tmp_path / "day.binpb"
    code, out, _ = export("--format", "otlp", "--only", "traces", "--to", file)
    content = file.read_bytes()
    size = int.from_bytes(content[:4], "big")

    assert (code, out, size) == (0, b"", len(content) - 4)
    assert len(spans_in(ExportTraceServiceRequest.FromString(content[4:]))) == 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["day.binpb"]


def test_record_that_breaks_a_request_is_no_reason_to_end(export, monkeypatch):
    """Whatever is wrong with it: the others are in the file, and it is counted."""
    real = Serial.encode

    def encode(serial, records, unmapped):
        if any(record.seq == 3 for record in records):
            raise OverflowError("no such time")
        return real(serial, records, unmapped)

    monkeypatch.setattr(Serial, "encode", encode)
    code, out, err = export("--only", "traces")
    names = [span.name for made in lines_of(out) for span in spans_in(made)]

    assert names == [f"t.{n}" for n in range(1, 41) if n != 3]
    assert code == 1
    assert err.startswith("exported 39 traces")
    assert err.endswith("unmapped (1)\n")


def test_package_that_is_missing(export, monkeypatch):
    """Is told; it is no record's fault."""
    monkeypatch.delitem(sys.modules, "hearthnet.observability.otel.export.protobuf", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.collector.logs.v1.logs_service_pb2", None)
    code, out, err = export("--format", "otlp")

    assert (code, out) == (1, b"")
    assert "hearthnet[otlp]" in err


def test_file_that_exists(export, tmp_path):
    """Is replaced only where that is asked for."""
    file = tmp_path / "x.jsonl"
    file.write_text("mine")
    assert export("--to", file)[0] == 1
    assert file.read_text() == "mine"
    assert export("--to", file, "--force")[0] == 0
    assert len(lines_of(file.read_bytes())) == 2
    assert export("--to", tmp_path)[0] == 1


def test_force_replaces_files_alone(export, tmp_path):
    """Not a pipe or a device, or a link to one; a link to a file stays one, and its target is replaced."""
    pipe, file, link = tmp_path / "pipe", tmp_path / "file", tmp_path / "link"
    os.mkfifo(pipe)
    for target in (pipe, tmp_path / "gone"):
        link.symlink_to(target)
        assert export("--to", link, "--force")[0] == 1
        assert link.readlink() == target
        link.unlink()
    assert export("--to", pipe, "--force")[0] == 1
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    file.write_text("old")
    link.symlink_to(file)
    assert export("--to", link, "--force")[0] == 0
    assert (link.is_symlink(), len(lines_of(file.read_bytes()))) == (True, 2)


@pytest.mark.parametrize(("form", "kind"), [((), "protobuf"), (("--format", "otlp-json"), "json")])
def test_to_a_backend(export, monkeypatch, form, kind):
    """With the headers of the environment, to the URL of the command line."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with receiving() as receiver:
        code, out, err = export("--to", receiver.url, *form)

    assert (code, out, err) == (0, b"", "exported 40 traces, 2 log records\n")
    assert len(receiver.names) == 40
    assert {(request.path, request.headers["x-key"]) for request in receiver.requests} == {
        ("/v1/traces", "1"), ("/v1/logs", "1"),
    }  # fmt: skip
    assert all(request.headers["content-type"].endswith(kind) for request in receiver.requests)


def test_backend_that_is_overloaded_is_waited_for(export):
    """A few times."""
    with receiving() as receiver:
        receiver.respond = lambda request: Response(503) if len(receiver.requests) < 3 else None
        code, _, _ = export("--to", receiver.url)

    assert (code, len(receiver.names)) == (0, 40)


@pytest.mark.parametrize(
    ("respond", "said"),
    [
        (lambda request: Response(401), "traces are not taken: HTTP 401"),
        (lambda request: Response(503), "traces are not taken: HTTP 503"),
        (lambda request: partial("traces", 3, "too old") if request.names else None, "not exported: partial (3)"),
        (lambda request: Response(400) if "t.5" in request.names else None, "not exported: http_400 (1)"),
    ],
)
def test_backend_that_does_not_take_it(export, respond, said):
    """Exit code 1, and the reason."""
    with receiving() as receiver:
        receiver.respond = respond
        code, _, err = export("--to", receiver.url)

    assert code == 1
    assert said in err
    assert "Traceback" not in err


def test_backend_that_is_away(export):
    """After five tries."""
    code, _, err = export("--to", f"http://127.0.0.1:{reserve_port()}")

    assert code == 1
    assert "ConnectError" in err


def test_mistakes(export, tmp_path):
    """Usage errors have 2; a store that is not there has 1."""
    assert export("--trace", "not an id")[0] == 2
    assert export("--to", "http://a:4318x")[0] == 1
    assert export("--format", "xml")[0] == 2
    settings = tmp_path / "other.toml"
    settings.write_text(f"[observability]\ndata_dir = {json.dumps(str(tmp_path / 'none'))}\n")
    code, out, err = export("--config", settings)
    assert (code, out) == (1, b"")
    assert err.startswith("error: ")


def test_nothing_matches(export):
    """Is no error."""
    code, out, err = export("--until", "1960-01-01")

    assert (code, out, err) == (0, b"", "exported nothing: no record matches\n")
