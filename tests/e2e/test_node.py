"""A real node under real calls: the results in SQL, log and metrics, and what survives a restart."""

from __future__ import annotations

import shutil
import signal
import subprocess

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.longer import few
from support.wire import post_all
from ulid import ULID

from hearthnet.identity.keys import KeyPair, short_id

DEFAULT_BODY = {"params": {}, "input": {"text": "hello"}}


def samples(node) -> dict[tuple, float]:
    """Returns all samples of the metrics page by name and labels."""
    page = node.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def requests_of(found, capability, result) -> float:
    """Returns the number of calls with that result."""
    return found.get(("hearthnet_requests_total", ("capability", capability), ("result", result)), 0)


async def call_many(node, count, concurrency, **wanted) -> list[str]:
    """Makes signed calls concurrently; returns their trace ids."""
    ids = [str(ULID()) for _ in range(count)]
    body = {"params": {}, "input": {"text": "hello", **wanted}}
    requests = ((node.headers(body, request_id=request_id), orjson.dumps(body)) for request_id in ids)
    answers = await post_all(node.port, requests, concurrency)
    assert [answer.headers["X-HearthNet-Request-Id"] for answer in answers] == ids
    assert {answer.status_code for answer in answers} == {200}
    return ids


@pytest.mark.parametrize("count", few([300, 1_000], 300))
async def test_hundreds_of_calls_agree_everywhere(node, count):
    """Signed calls, 16 at a time: SQL, metrics, log and client agree exactly."""
    ids = await call_many(node, count, 16)

    node.wait_for_sql([(count,)], "SELECT count(*) FROM traces")
    assert {row[0] for row in node.sql("SELECT trace_id FROM traces")} == set(ids)
    assert node.sql("SELECT DISTINCT capability, version, result FROM traces") == [("experimental.echo", "1.0", "ok")]
    found = samples(node)
    assert requests_of(found, "experimental.echo", "ok") == count
    assert found["hearthnet_request_duration_ms_count", ("capability", "experimental.echo")] == count
    lines = node.log_lines()
    assert all(list(line)[:4] == ["ts", "level", "logger", "msg"] for line in lines)
    assert {line["trace_id"] for line in lines if line["msg"] == "done"} == set(ids)
    assert b"database is locked" not in b"".join(path.read_bytes() for path in node.log_dir.glob("*.log"))
    assert node.sql("PRAGMA integrity_check") == [("ok",)]


def test_restart_keeps_everything(node):
    """SIGTERM exits with 0; after the next start all records exist, also for a new process reading the disk."""
    with httpx.Client(verify=False) as client:
        for number in range(120):
            node.echo(str(number), client)
    newest = [item["trace_id"] for item in node.get("/trace/recent", params={"n": 100}).json()]
    assert node.stop() == 0

    from_disk = node.cli("trace", "recent", "100", "--json")
    assert [item["trace_id"] for item in httpx.Response(200, text=from_disk.stdout).json()] == newest
    node.start()
    assert [item["trace_id"] for item in node.get("/trace").json()] == newest
    node.echo("again")
    node.wait_for_sql([(121, 121, 2)], "SELECT count(*), count(DISTINCT seq), count(DISTINCT run_id) FROM traces")
    assert node.sql("SELECT end_reason FROM runs ORDER BY started_us") == [("clean",), (None,)]


def test_interrupt_is_a_clean_stop(node):
    """Ctrl-C stops as SIGTERM does."""
    assert node.stop(signal.SIGINT) == 0
    assert node.sql("SELECT end_reason FROM runs") == [("clean",)]


def test_answer_comes_after_its_trace(shared_node):
    """The trace exists before the caller has its response."""
    answer = shared_node.echo()
    found = shared_node.get(f"/trace/{answer.headers['X-HearthNet-Request-Id']}")

    (item,) = found.json()
    assert item["result"] == "ok"
    assert [part["name"] for part in item["spans"]] == [
        "find",
        "authorize",
        "validate",
        "admit",
        "handle",
        "check_answer",
    ]


def test_trace_routes_filter(node):
    """`/trace` and `/trace/recent` return the same, newest first, filtered by capability, result, duration and time."""
    node.echo("one")
    node.echo("two", fail="timeout")
    node.echo("three", delay_ms=2_000)
    node.wait_for_sql([(3,)], "SELECT count(*) FROM traces")  # a record that is committed between two looks gets a seq

    def results(**wanted):
        answers = [node.get(path, params=wanted).json() for path in ("/trace", "/trace/recent")]
        assert answers[0] == answers[1]
        return [item["result"] for item in answers[0]]

    assert results() == ["ok", "timeout", "ok"]
    assert results(n=1) == ["ok"]
    assert results(result="timeout") == results(result="failed") == ["timeout"]
    assert results(min_ms=1_900) == ["ok"]
    assert results(capability="nothing.here") == []
    assert results(since="2000-01-01T00:00:00Z", capability="experimental.echo") == ["ok", "timeout", "ok"]
    assert results(since="2100-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/trace?n=0", 400),
        ("/trace?n=-1", 400),
        ("/trace?n=99999999", 400),
        ("/trace?min_ms=nan-sense", 400),
        ("/trace?since=yesterday", 400),
        ("/trace/not-a-ulid", 400),
        ("/trace/01HXR4Z6W5S9E2JQ4Y0T7B3M1C", 404),
        ("/nowhere", 404),
        ("/bus/v1/call", 405),
    ],
)
def test_bad_reads_get_the_errors_of_the_wire(shared_node, path, status):
    """An invalid request gets the wire's error body, never a 500."""
    answer = shared_node.get(path)

    assert answer.status_code == status
    assert set(answer.json()) >= {"error", "message"}


def test_calls_that_are_refused(node):
    """Every kind of invalid call has its status, code and count."""
    stranger = KeyPair.generate()
    signed = node.headers(DEFAULT_BODY)
    old = {**signed, "X-HearthNet-Timestamp": "2020-01-01T00:00:00Z"}
    empty: dict = {"params": {}, "input": {}}
    expected = [
        (node.call(DEFAULT_BODY, headers={}), 401, "invalid_signature"),
        (node.call({"params": {}, "input": {"text": "other"}}, headers=signed), 401, "invalid_signature"),
        (
            node.call(DEFAULT_BODY, headers={**signed, "X-HearthNet-Signature": "ed25519:AAAA"}),
            401,
            "invalid_signature",
        ),
        (node.call(DEFAULT_BODY, keys=stranger), 401, "unauthorized"),
        (node.call(DEFAULT_BODY, headers=old), 410, "expired"),
        (node.call([1, 2]), 400, "bad_request"),
        (node.call(DEFAULT_BODY, capability="experimental.nothing"), 404, "not_found"),
        (node.call(DEFAULT_BODY, version="2.0"), 404, "not_found"),
        (node.call(DEFAULT_BODY, version="x"), 400, "bad_request"),
        (node.call(DEFAULT_BODY, capability="../etc"), 400, "bad_request"),
        (node.call(empty), 400, "schema_mismatch"),
    ]
    for answer, status, code in expected:
        assert (answer.status_code, answer.json()["error"]) == (status, code)
        assert len(answer.headers["X-HearthNet-Request-Id"]) == 26
    raw = node.post("/bus/v1/call", content=b"{not json", headers=signed)
    assert (raw.status_code, raw.json()["error"]) == (400, "bad_request")

    found = samples(node)
    reasons = {key[1][1]: value for key, value in found.items() if key[0] == "hearthnet_signature_failures_total"}
    assert reasons == {"missing": 1, "malformed": 1, "wrong": 1, "not_member": 1, "expired": 1}
    assert requests_of(found, "other", "invalid_signature") == 3
    assert requests_of(found, "other", "not_found") == 1
    assert requests_of(found, "experimental.echo", "not_found") == 1
    assert requests_of(found, "experimental.echo", "schema_mismatch") == 1
    node.wait_for_sql(
        [("not_found",), ("not_found",), ("schema_mismatch",)], "SELECT result FROM traces ORDER BY result"
    )


def test_request_id_that_is_no_ulid_is_replaced(node):
    """A signed call with a hostile request id gets a new id, and the hostile one is recorded nowhere."""
    answer = node.call(DEFAULT_BODY, request_id="<script>alert(1)</script>")

    assert answer.status_code == 200
    assert "script" not in answer.headers["X-HearthNet-Request-Id"]
    assert node.stop() == 0
    written = [path.read_bytes() for path in [*node.data_dir.glob("telemetry*"), *node.log_dir.glob("*")]]
    assert not any(b"<script>" in content for content in written)


def test_stream_ends_with_one_last_event(node):
    """A stream has its frames and exactly one `done`, or one `error` with the trace's result."""
    good = node.echo(frames=3).text.split("\n\n")
    bad = node.echo(frames=2, fail="capacity_exceeded").text.split("\n\n")

    assert [event.splitlines()[0] for event in good if event] == ["event: frame"] * 3 + ["event: done"]
    assert [event.splitlines()[0] for event in bad if event] == ["event: frame"] * 2 + ["event: error"]
    assert "capacity_exceeded" in bad[2]
    results = [item["result"] for item in node.get("/trace").json()]
    assert results == ["capacity_exceeded", "ok"]


def test_caller_that_leaves_ends_its_call(node):
    """A client that disconnects during a stream leaves a `cancelled` trace and no slot in use."""
    body = {"params": {}, "input": {"text": "x" * 100_000, "frames": 1_000}}
    with (
        httpx.Client(verify=False) as client,
        client.stream("POST", f"{node.url}/bus/v1/call", json=body, headers=node.headers(body)) as answer,
    ):
        next(answer.iter_bytes())

    node.wait_for_sql([("cancelled",)], "SELECT result FROM traces")
    status = node.get("/status").json()
    assert status["calls_in_flight"] == 0
    assert samples(node)["hearthnet_active_streams", ("capability", "experimental.echo")] == 0


def test_metrics_endpoint_format(node):
    """The page parses as Prometheus text; `promtool`, if installed, only reports the specified unit."""
    node.echo()
    node.echo(fail="internal_error")
    answer = node.get("/metrics")

    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert {"hearthnet_requests", "hearthnet_request_duration_ms", "hearthnet_nodes_online"} <= set(families)
    assert all(family.documentation for family in families.values())
    buckets = [s for s in families["hearthnet_request_duration_ms"].samples if s.name.endswith("_bucket")]
    assert [s.value for s in buckets] == sorted(s.value for s in buckets)
    assert buckets[-1].labels["le"] == "+Inf"
    assert samples(node)["hearthnet_event_log_size", ("community", short_id(node.keys.node_id))] == 1
    promtool = shutil.which("promtool")
    if promtool:
        done = subprocess.run([promtool, "check", "metrics"], input=answer.text, capture_output=True, text=True)
        remarks = (done.stdout + done.stderr).splitlines()
        assert [line for line in remarks if not line.startswith("hearthnet_request_duration_ms ")] == []


def test_open_routes(shared_node):
    """Health, readiness and manifest need no authentication, and every response names the node."""
    for path in ("/health", "/ready", "/manifest", "/metrics", "/trace"):
        answer = shared_node.get(path)
        assert answer.status_code == 200
        assert answer.headers["X-HearthNet-From"] == shared_node.keys.node_id
    assert shared_node.get("/manifest").json()["community_id"] == shared_node.keys.node_id


def test_claims_of_a_proxy_are_not_believed(shared_node):
    """A request with a forwarding header never counts as local."""
    for name, value in (("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1"), ("X-Real-IP", "::1")):
        assert shared_node.get("/trace", headers={name: value}).status_code == 401
    assert shared_node.get("/trace").status_code == 200


def test_second_node_on_the_same_port_is_refused(node):
    """A second start fails with one line, a hint and exit code 1; the first node continues."""
    second = node.cli("run")

    assert second.returncode == 1
    assert f"port {node.port} is already in use" in second.stderr
    assert "hint:" in second.stderr
    assert node.echo().status_code == 200
