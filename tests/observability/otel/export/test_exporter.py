"""The export: a real store, a real receiver, and whatever may happen between them."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate

import pytest
from support.certificates import write_pair
from support.exported import cursors, put, traces
from support.otlp import Response, partial, receiving, spans_in
from support.ports import reserve_port
from support.reading import rows
from support.records import a_log
from support.waiting import nothing_happens, wait_until

from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.otel.export import delivery, exporter
from hearthnet.observability.otel.export.settings import read
from hearthnet.observability.otel.export.status import LOCK_FILE, read_status
from hearthnet.observability.store import writer as writing
from hearthnet.observability.store.lock import StoreLock

log = get_logger("hearthnet.work")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Looks at the store and tries again at once."""
    monkeypatch.setattr(exporter, "_ROUND_S", 0.02)
    monkeypatch.setattr(exporter, "_IDLE_S", 0.05)
    monkeypatch.setattr(delivery, "_FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(delivery, "_LAST_WAIT_S", 0.05)


@pytest.fixture
def receiver():
    """A receiver that takes everything."""
    with receiving() as made:
        yield made


@contextmanager
def exporting(settings, url):
    """Telemetry that is exported."""
    with telemetry.open(settings.model_copy(update={"otlp_endpoint": url})) as recording:
        yield recording


def record(*names):
    """Records a trace for each name."""
    for name in names:
        with trace.new_trace(name):
            pass


def troubles(settings):
    """Why nothing is delivered, by signal."""
    return read_status(settings.data_dir).get("troubles", {})


def logged_texts(settings):
    """The messages of the store's log records."""
    return [text for (text,) in rows(settings.data_dir / "telemetry.db", "SELECT msg FROM logs ORDER BY seq")]


def test_traces_and_log_records_arrive(observability, receiver):
    """Once each, in order, with their ids; the cursors are committed."""
    with exporting(observability, receiver.url):
        with trace.new_trace("job.run") as made, trace.span("step", size=3):
            log.warning("working", extra={"n": 1})
        record("job.next")
        wait_until(lambda: receiver.names == ["job.run", "job.next"] and "working" in receiver.bodies)
    (request,) = [request for request in receiver.stored if "job.run" in request.names]

    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["user-agent"].startswith("hearthnet/")
    assert [span.name for span in spans_in(request.message)][:2] == ["job.run", "step"]
    assert receiver.names == ["job.run", "job.next"]
    ((last,),) = rows(observability.data_dir / "telemetry.db", "SELECT max(seq) FROM traces")
    assert cursors(observability)["otlp.traces"] >= last
    assert made.trace_id


def test_what_a_short_program_recorded_is_sent_at_its_end(observability, receiver, monkeypatch):
    """Even if it ends before the exporter looks for the first time."""
    monkeypatch.setattr(exporter, "_ROUND_S", 60.0)
    with exporting(observability, receiver.url):
        wait_until(lambda: "otlp.logs" in cursors(observability))
        record("cron.run")

    assert receiver.names == ["cron.run"]
    with exporting(observability, receiver.url):
        record("cron.again")
    assert receiver.names == ["cron.run", "cron.again"]


@pytest.mark.parametrize(
    ("variables", "header", "text"),
    [
        ({"COMPRESSION": "gzip"}, "content-encoding", "gzip"),
        ({"PROTOCOL": "http/json"}, "content-type", "application/json"),
        ({"HEADERS": "X-Key=two%20words"}, "x-key", "two words"),
    ],
)
def test_settings_of_the_environment(observability, receiver, monkeypatch, variables, header, text):
    """Are those of every request."""
    for name, value in {**variables, "ENDPOINT": receiver.url}.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    with telemetry.open(observability):
        record("a.b")

    assert receiver.names == ["a.b"]
    assert {request.headers[header] for request in receiver.requests} == {text}


def test_endpoint_of_a_program_wins(observability, receiver, monkeypatch):
    """Over that of the environment."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with exporting(observability, receiver.url):
        record("a.b")

    assert receiver.names == ["a.b"]


def test_mistaken_endpoint_costs_nothing_but_the_export(observability):
    """It is logged, and the program records on."""
    with exporting(observability, "localhost:4318"):
        record("a.b")

    assert "telemetry is not exported" in logged_texts(observability)


# --- refusals


def test_partial_success_is_counted_and_not_repeated(observability, receiver):
    """The cursor moves; what was rejected is counted and told once."""
    receiver.respond = lambda request: partial("traces", 3, "too old") if request.names else None
    put(observability, traces(10))
    with exporting(observability, receiver.url):
        wait_until(lambda: cursors(observability).get("otlp.traces", 0) >= 10)

    assert [len(request.names) for request in receiver.of("traces")] == [10]
    assert read_status(observability.data_dir)["counts"]["traces"]["failed"] == {"partial": 3}
    assert logged_texts(observability).count("a backend took telemetry, and has something to say") == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_poisoned_record_costs_itself_alone(observability, receiver, status):
    """63 of 64 arrive, with 13 requests at most."""
    receiver.respond = lambda request: Response(status) if "t.40" in request.names else None
    put(observability, traces(64))
    with exporting(observability, receiver.url):
        wait_until(lambda: cursors(observability).get("otlp.traces", 0) >= 64)
    requests = [request for request in receiver.of("traces") if "t" in {name[0] for name in request.names}]

    assert [name for name in receiver.names if name.startswith("t.")] == [f"t.{n}" for n in range(1, 65) if n != 40]
    assert len(requests) <= 13
    assert read_status(observability.data_dir)["counts"]["traces"]["failed"] == {f"http_{status}": 1}


def test_poison_with_status_500(observability, receiver):
    """Is tried five times, then halved away."""
    receiver.respond = lambda request: Response(500) if "t.3" in request.names else None
    put(observability, traces(8))
    with exporting(observability, receiver.url):
        wait_until(lambda: cursors(observability).get("otlp.traces", 0) >= 8)

    assert [name for name in receiver.names if name.startswith("t.")] == [f"t.{n}" for n in (1, 2, 4, 5, 6, 7, 8)]
    assert [len(request.names) for request in receiver.of("traces")][:5] == [8] * 5


def test_backend_that_refuses_each_record_gets_none_skipped(observability, receiver):
    """Even an empty request: it is not the records, so everything waits, as for mistaken settings."""
    receiver.respond = lambda request: Response(400)
    put(observability, traces(64))
    with exporting(observability, receiver.url):
        wait_until(lambda: troubles(observability).get("traces", {}).get("is_misset"))

    assert read_status(observability.data_dir)["counts"]["traces"]["failed"] == {}
    assert cursors(observability)["otlp.traces"] == 0
    assert any(request.message is not None and not spans_in(request.message) for request in receiver.of("traces"))


@pytest.mark.parametrize("response", [Response(401), Response(404), Response(302, {"Location": "http://127.0.0.1:1/"}),
                                      Response(200, {"Content-Type": "text/html"}, b"<html>sign in")])  # fmt: skip
def test_settings_at_fault_hold_everything(observability, receiver, monkeypatch, response):
    """One request, one line, and a probe after five minutes, here a moment; then all arrives."""
    monkeypatch.setattr(delivery, "_PROBE_S", 0.2)
    receiver.respond = lambda request: response if len(receiver.of("traces")) <= 2 and request.names else None
    put(observability, traces(3))
    with exporting(observability, receiver.url):
        wait_until(lambda: [name for name in receiver.names if name.startswith("t.")] == ["t.1", "t.2", "t.3"])
        assert len(receiver.of("traces")) == 3
        wait_until(lambda: "telemetry is exported again" in logged_texts(observability))

    assert logged_texts(observability).count("telemetry cannot be exported, it waits in the store") == 1


def test_signals_wait_by_themselves(observability, receiver):
    """A backend without log records gets all traces."""
    receiver.respond = lambda request: Response(405) if request.path == "/v1/logs" else None
    with exporting(observability, receiver.url):
        log.warning("working")
        record("a.b", "a.c")
        wait_until(lambda: receiver.names == ["a.b", "a.c"] and "logs" in troubles(observability))

    assert len(receiver.of("logs")) == 1
    assert troubles(observability)["logs"]["words"] == "HTTP 405"
    assert "traces" not in troubles(observability)


# --- waiting


@pytest.mark.parametrize("is_date", [True, False])
def test_retry_after(observability, receiver, is_date):
    """The next request comes after the time that the backend asks for, not before; a date is one too."""
    came = []

    def respond(request):
        came.append(time.time())
        wait = formatdate(time.time() + 2, usegmt=True) if is_date else "1"
        return Response(429, {"Retry-After": wait}) if len(came) == 1 else None

    receiver.respond = respond
    put(observability, traces(3))
    with exporting(observability, f"{receiver.url}"):
        wait_until(lambda: "t.3" in receiver.names)
    by_signal = [request.path for request in receiver.requests]

    assert came[by_signal.index("/v1/traces", 1)] - came[0] >= 0.9  # a date has whole seconds


def test_backend_that_is_away_and_comes_back(observability):
    """Nothing is lost, one line tells of its end; the first request is a small one."""
    port = reserve_port()
    put(observability, traces(100))
    with exporting(observability, f"http://127.0.0.1:{port}"):
        wait_until(lambda: troubles(observability).get("traces"))
        with receiving(port) as receiver:
            wait_until(lambda: len([name for name in receiver.names if name.startswith("t.")]) == 100)
            assert len(receiver.of("traces")[0].names) == delivery._FIRST_RECORDS
            wait_until(lambda: "telemetry is exported again" in logged_texts(observability))

    assert "connect" in troubles(observability).get("traces", {"words": "connect"})["words"].lower()


def test_server_that_never_responds_does_not_hold_up_the_end(observability, receiver):
    """The program stops within a second; the records wait for the next start."""
    receiver.gate = threading.Event()
    with exporting(observability, receiver.url):
        record("a.b")
        wait_until(lambda: receiver.requests)
        began = time.monotonic()
    took = time.monotonic() - began

    assert took < 2.5  # a second for the export, and the rest of a busy machine's end
    receiver.gate.set()
    receiver.gate = None
    with exporting(observability, receiver.url):
        wait_until(lambda: "a.b" in receiver.names)


def test_wait_ends_at_once(observability):
    """A back-off of an hour is no reason to be there for longer."""
    with receiving() as receiver:
        receiver.respond = lambda request: Response(503, {"Retry-After": "3600"})
        with exporting(observability, receiver.url):
            record("a.b")
            wait_until(lambda: troubles(observability))
            began = time.monotonic()
        assert time.monotonic() - began < 2.5


# --- what is lost, and what is doubled


def test_rows_evicted_unsent_are_told_of(observability, monkeypatch, receiver, unsampled):
    """Offline for three laps of the ring: what was evicted is counted in its transaction, and one record says so."""
    monkeypatch.setattr(writing.Writer.__init__, "__kwdefaults__",
                        {**writing.Writer.__init__.__kwdefaults__, "ring_rows": 20})  # fmt: skip
    receiver.respond = lambda request: Response(503)
    with exporting(observability, receiver.url) as recording:
        wait_until(lambda: "otlp.traces" in cursors(observability))
        for n in range(60):
            record(f"t.{n}")
            recording.flush()
        assert cursors(observability)["otlp.traces.lost"] == 40
        before = len(receiver.of("traces"))  # one more may have been read before the last row was evicted
        wait_until(lambda: len(receiver.of("traces")) >= before + 2)
        receiver.respond = lambda request: None
        wait_until(lambda: cursors(observability).get("otlp.traces.lost") == 0 and len(receiver.names) >= 20)

    told = [body for body in receiver.bodies if "evicted before they were exported" in body]
    assert told[0] == "40 traces were lost: evicted before they were exported"
    assert sum("traces" in body for body in told) == 1
    assert receiver.names == [f"t.{n}" for n in range(40, 60)]


def test_nothing_is_counted_where_nothing_is_exported(observability, monkeypatch):
    """Evicted rows of a store without an export are no loss."""
    monkeypatch.setattr(writing.Writer.__init__, "__kwdefaults__",
                        {**writing.Writer.__init__.__kwdefaults__, "ring_rows": 20})  # fmt: skip
    with telemetry.open(observability):
        record(*["a.b"] * 60)

    assert cursors(observability) == {}


PROGRAM = """
import sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
from hearthnet.observability.otel.export import exporter
exporter._ROUND_S = 0.02
home = Path(sys.argv[1])
settings = ObservabilityConfig(data_dir=home / "data", log_dir=home / "logs", otlp_endpoint=sys.argv[2])
with telemetry.open(settings):
    for n in range(int(sys.argv[3])):
        with trace.new_trace(f"t.{n}"):
            pass
    print("recorded", flush=True)
    sys.stdin.read()
"""


def test_killed_while_it_exports(observability, receiver, tmp_path):
    """Killed after the backend has stored a batch: that one comes twice, with the same ids, and nothing is lost."""
    receiver.gate = threading.Event()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), receiver.url, "700"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "recorded\n"
        wait_until(lambda: receiver.of("traces"))
        program.send_signal(signal.SIGKILL)
    receiver.gate.set()
    wait_until(lambda: receiver.stored)
    receiver.gate = None
    first = [span for request in receiver.stored for span in spans_in(request.message)]
    with exporting(observability, receiver.url):
        wait_until(lambda: len(set(receiver.names)) == 700)
    sent = [span for request in receiver.stored for span in spans_in(request.message)]

    assert len(sent) - 700 == len(first) <= delivery.MAX_RECORDS
    ids = [(span.trace_id, span.span_id, span.start_time_unix_nano, span.end_time_unix_nano) for span in sent]
    assert len(set(ids)) == 700


def test_one_process_exports(observability, receiver):
    """While another holds the lock nothing is sent; when that ends, this one goes on."""
    observability.data_dir.mkdir(parents=True)
    other = StoreLock(observability.data_dir, LOCK_FILE)
    other.acquire()
    with exporting(observability, receiver.url):
        record("a.b")
        nothing_happens(0.2)
        assert receiver.requests == []
        other.release()
        wait_until(lambda: receiver.names == ["a.b"])


def test_store_that_is_replaced_is_exported_from_its_beginning(observability, receiver):
    """The cursor is the database's: one of another file means nothing."""
    with exporting(observability, receiver.url) as recording:
        record(*[f"old.{n}" for n in range(5)])
        wait_until(lambda: "old.4" in receiver.names)
        recording.flush()
        for name in ("telemetry.db", "telemetry.db-wal", "telemetry.db-shm"):
            (observability.data_dir / name).unlink(missing_ok=True)
        record("new.1")
        wait_until(lambda: "new.1" in receiver.names)


def test_batches_are_bounded(observability, receiver):
    """By records and by bytes; no trace is cut."""
    big = b'{"text":"%b"}' % (b"x" * 6_000)
    put(observability, [one if n < 600 else one._replace(extras=big) for n, one in enumerate(traces(900))])
    with exporting(observability, receiver.url):
        wait_until(lambda: len([name for name in receiver.names if name.startswith("t.")]) == 900)
    requests = receiver.of("traces")

    assert max(len(request.names) for request in requests) == delivery.MAX_RECORDS
    assert max(request.size for request in requests) <= delivery.MAX_BYTES
    assert len(requests) <= 5


def test_damaged_rows_are_skipped_and_counted(observability, receiver):
    """What has no form in OTLP costs itself alone; a name that is a number has one."""
    odd = b'[{"id":"00000000000000aa","parent":null,"name":5,"offset_ms":0,"duration_ms":1,"status":"ok","extras":{}}]'
    changes = [{}, {"trace_id": "nonsense"}, {"spans": b"[{}]"}, {"started_us": -1}, {"spans": odd}, {}]
    put(observability, [one._replace(**change) for one, change in zip(traces(6), changes, strict=True)])
    with exporting(observability, receiver.url):
        wait_until(lambda: cursors(observability).get("otlp.traces", 0) >= 6)

    assert receiver.names[:3] == ["t.1", "t.5", "t.6"]
    assert read_status(observability.data_dir)["counts"]["traces"]["failed"] == {"unmapped": 3}


# --- it does not watch itself


def test_own_records_are_not_exported(observability, receiver):
    """Neither those of the exporter nor those of the client that it sends with."""
    names = ("httpx", "httpcore.http11", "hearthnet.observability.otel.export.delivery", "x")
    put(observability, logs=[a_log(n, logger=name, msg=name) for n, name in enumerate(names, 1)])
    with exporting(observability, receiver.url):
        wait_until(lambda: "x" in receiver.bodies)

    assert cursors(observability)["otlp.logs"] >= 4
    assert [body for body in receiver.bodies if body in names] == ["x"]


def test_instrumented_client_makes_no_span(observability, receiver, monkeypatch):
    """Where httpx is instrumented for OpenTelemetry, a hundred exports are none of its spans."""
    import httpx
    from opentelemetry import context

    keys = (
        "suppress_instrumentation",
        context._SUPPRESS_INSTRUMENTATION_KEY,
        context._SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    )
    seen = []
    inner = httpx.HTTPTransport.handle_request

    def instrumented(self, request):
        seen.append([context.get_value(key) for key in keys])
        return inner(self, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", instrumented)
    with exporting(observability, receiver.url):
        record("a.b")

    assert seen
    assert all(suppressed == [True] * 3 for suppressed in seen)
    assert [context.get_value(key) for key in keys] == [None] * 3


def test_proxy_of_the_environment_is_not_for_this_machine(observability, receiver, monkeypatch):
    """A collector on loopback is reached itself; another is behind the proxy."""
    with receiving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with exporting(observability, receiver.url):
            record("a.b")
        assert (receiver.names, proxy.requests) == (["a.b"], [])
        from hearthnet.observability.otel.export.sender import Sender

        sender = Sender("traces", read("http://collector.invalid:4318", {}).targets["traces"])
        assert sender.send(b"").kind == "accepted"
        sender.close()
        assert [request.path for request in proxy.requests] == ["http://collector.invalid:4318/v1/traces"]


def test_certificates(observability, monkeypatch, tmp_path):
    """A backend whose certificate is not trusted gets nothing; one that asks for ours gets it."""
    theirs, ours = write_pair(tmp_path, "theirs"), write_pair(tmp_path, "ours")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours["tls_cert"])
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(theirs["tls_cert"], theirs["tls_key"])
    put(observability, traces(1))
    with receiving(tls=server) as receiver:
        with exporting(observability, receiver.url):
            wait_until(lambda: "traces" in troubles(observability))
            assert "CERTIFICATE_VERIFY_FAILED" in troubles(observability)["traces"]["words"]
        files = {
            "CERTIFICATE": theirs["tls_cert"],
            "CLIENT_CERTIFICATE": ours["tls_cert"],
            "CLIENT_KEY": ours["tls_key"],
        }
        for name, path in files.items():
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", str(path))
        assert receiver.names == []
        with exporting(observability, receiver.url):
            wait_until(lambda: "t.1" in receiver.names)


def test_error_that_was_not_thought_of(observability, receiver, monkeypatch):
    """Is logged, and the export goes on."""
    real, raised = exporter.unsent.state, []

    def state(reader):
        if not raised:
            raised.append(1)
            raise RuntimeError("of a bug")
        return real(reader)

    monkeypatch.setattr(exporter.unsent, "state", state)
    with exporting(observability, receiver.url):
        record("a.b")
        wait_until(lambda: receiver.names == ["a.b"])

    assert "telemetry cannot be exported now" in logged_texts(observability)


@pytest.mark.parametrize("name", ["CERTIFICATE", "CLIENT_CERTIFICATE"])
def test_certificate_that_is_missing(observability, receiver, monkeypatch, name):
    """Is a mistake that is told; the program records on."""
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", "/nowhere")
    with exporting(observability, receiver.url):
        record("a.b")
        wait_until(lambda: read_status(observability.data_dir).get("error"))

    assert "certificate" in read_status(observability.data_dir)["error"]
    assert receiver.requests == []


def test_port_of_grpc_is_named(observability):
    """A server of HTTP/2 hangs up on what it does not understand."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        from hearthnet.observability.otel.export.verdict import judge_failure

        said = judge_failure(ssl.SSLError("wrong version"), 4317).words
    assert "4318" in said


FORKING = """
import os, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
home = Path(sys.argv[1])
settings = ObservabilityConfig(data_dir=home / "data", log_dir=home / "logs", otlp_endpoint=sys.argv[2])
with telemetry.open(settings):
    with trace.new_trace("of.parent"):
        pass
    child = os.fork()
    if not child:
        with trace.new_trace("of.child"):
            pass
        telemetry.opened().close()
        os._exit(0)
    os.waitpid(child, 0)
    with trace.new_trace("after.child"):
        pass
    sys.stdin.read()  # a clean stop waits for a second only
"""


def test_forked_child(receiver, tmp_path):
    """Its records arrive too, by whoever holds the lock; the parent's export goes on."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, str(tmp_path), receiver.url]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as program:
        wait_until(lambda: sorted(receiver.names) == ["after.child", "of.child", "of.parent"], lambda: receiver.names)
        assert program.communicate(timeout=60)[1] == ""
    assert program.returncode == 0
    assert len(receiver.names) == 3
