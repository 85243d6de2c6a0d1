"""A real node's metrics and its figures of the ring: loaded, off, without the library, with hostile callers."""

from __future__ import annotations

import asyncio
import json
import os

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.llm_backend import Script, running_backend
from support.waiting import until

from hearthnet.config import LlmBackend, LlmConfig, load, save
from hearthnet.identity.keys import short_id

CHAT = {"params": {}, "input": {"messages": [{"role": "user", "content": "hello"}]}}
DISABLED = "# metrics are disabled\n"


def samples(node) -> dict[tuple, float]:
    """Every sample of the metrics page by name and label values."""
    page = node.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.fixture
def loaded_node(stopped_node, taken_port):
    """A node with a language model, an internet that is one port of loopback, and a blob."""
    with running_backend() as backend:
        backend.script = Script(tokens=("a", "reply"))
        config = load()
        emergency = config.emergency.model_copy(update={"enabled": True, "probe_targets": (f"127.0.0.1:{taken_port}",)})
        backends = (LlmBackend(name="ollama", url=backend.url, model="tiny"),)
        save(config.model_copy(update={"llm": LlmConfig(backends=backends), "emergency": emergency}))
        blobs = stopped_node.data_dir / "blobs"
        blobs.mkdir(exist_ok=True)
        (blobs / "one").write_bytes(b"x" * 1_234)
        stopped_node.start()
        yield stopped_node


def test_every_standard_metric_is_driven(loaded_node):
    """Each metric of the standard set has the value that the load gives it."""
    node, own = loaded_node, short_id(loaded_node.keys.node_id)
    for _ in range(25):  # from the twentieth on health has a rate
        assert node.echo().status_code == 200
    assert node.echo(frames=2).status_code == 200
    assert node.echo(fail="timeout").status_code == 408
    assert node.call(CHAT, capability="llm.chat").status_code == 200
    assert node.call(CHAT, headers={}).status_code == 401

    found = samples(node)
    assert found["hearthnet_requests_total", "experimental.echo", "ok"] == 26
    assert found["hearthnet_requests_total", "experimental.echo", "timeout"] == 1
    assert found["hearthnet_request_duration_ms_count", "experimental.echo"] == 27
    assert found["hearthnet_active_streams", "experimental.echo"] == 0
    assert found["hearthnet_nodes_online", own] == 1
    assert found["hearthnet_event_log_size", own] == 1
    assert found["hearthnet_event_log_lamport_head", own] == 1
    modes = {key[1]: value for key, value in found.items() if key[0] == "hearthnet_emergency_mode"}
    assert modes == {"off": 0, "normal": 1, "emergency": 0}
    assert found["hearthnet_blob_storage_bytes",] == 1_234
    assert found["hearthnet_llm_tokens_generated_total", "ollama", "tiny"] > 0
    assert found["hearthnet_llm_concurrent", "tiny"] == 0
    assert found["hearthnet_capability_health_success_rate", "experimental.echo", own] == 1
    assert found["hearthnet_signature_failures_total", "missing"] == 1
    assert 0 <= found["hearthnet_telemetry_lag_seconds",] < 30


async def test_calls_that_find_no_place_are_counted(node):
    """More at once than the echo service has places: the rest is turned away and counted."""
    body = {"params": {}, "input": {"text": "x", "delay_ms": 60_000}}
    waiting = []
    async with httpx.AsyncClient(base_url=node.url, timeout=120, verify=False) as client:

        def call():
            return client.post("/bus/v1/call", json=body, headers=node.headers(body))

        for count in range(8, 65, 8):  # all at once would be too much for a busy machine, and be refused for that
            waiting += [asyncio.create_task(call()) for _ in range(8)]
            await until(lambda count=count: node.get("/status").json()["calls_in_flight"] == count)
        assert (await call()).json()["error"] == "capacity_exceeded"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    assert samples(node)["hearthnet_rate_limited_total", "experimental.echo", "max_concurrent"] == 1


def test_hostile_names_grow_nothing(node):
    """Invented capabilities, versions and ids leave the page as long as it was, and readable."""
    node.call(CHAT, capability="experimental.first")
    node.call(CHAT, capability="\\udcff")
    before = set(samples(node))
    for number in range(300):
        node.call(CHAT, capability=f"experimental.n{number}")
    for name in ("../etc", "x" * 5_000, "a.b\\ud800", "é"):
        headers = {**node.headers(CHAT), "X-HearthNet-Capability": name.encode()}
        assert node.call(CHAT, headers=headers).status_code in (400, 401)

    found = samples(node)
    assert {key for key in set(found) - before if not key[0].startswith("hearthnet_telemetry_")} <= {
        ("hearthnet_requests_total", "other", "invalid_signature"),
        ("hearthnet_signature_failures_total", "wrong"),
        ("hearthnet_signature_failures_total", "malformed"),
    }
    assert found["hearthnet_requests_total", "other", "not_found"] == 301


def works_without_metrics(node) -> None:
    """The node calls, streams, records and answers its tools; the page says that there are none."""
    answer = node.get("/metrics")
    assert (answer.status_code, answer.text) == (200, DISABLED)
    assert node.echo().status_code == 200
    assert node.echo(frames=2).status_code == 200
    assert node.echo(fail="internal_error").status_code == 500
    assert node.call(CHAT, headers={}).status_code == 401
    node.wait_for_sql([(3,)], "SELECT count(*) FROM traces")
    status = node.get("/status").json()
    assert (status["telemetry"], status["ring"][0]["count"]) == ({"store": "ok"}, 3)
    assert node.get("/metrics").text == DISABLED
    assert node.stop() == 0


def test_node_with_metrics_off(stopped_node):
    """`metrics_enabled = false` takes the metrics and nothing else."""
    config = load()
    off = config.observability.model_copy(update={"metrics_enabled": False})
    save(config.model_copy(update={"observability": off}))
    stopped_node.start()

    works_without_metrics(stopped_node)


def test_node_without_the_library(stopped_node, tmp_path, monkeypatch):
    """Where `prometheus_client` cannot be imported the node runs as if metrics were off."""
    missing = tmp_path / "path" / "prometheus_client"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(missing.parent), os.environ.get("PYTHONPATH", "")]))
    stopped_node.start()

    works_without_metrics(stopped_node)


def test_status_shows_the_ring_up_and_down(node):
    """Calls, error rate and quantiles of each capability, from the node or from disk: the same figures."""
    for _ in range(9):
        node.echo()
    node.echo(fail="internal_error")
    node.wait_for_sql([(10,)], "SELECT count(*) FROM traces")

    up = json.loads(node.cli("status", "--json").stdout)
    (item,) = up["ring"]
    assert (item["capability"], item["count"], item["errors"], item["error_rate"]) == ("experimental.echo", 10, 1, 0.1)
    assert 0 < item["p50_ms"] <= item["p90_ms"] <= item["p99_ms"] <= item["max_ms"]
    assert node.sql("SELECT p50_ms, p90_ms, p99_ms, last_ts FROM capability_stats") == [
        (item["p50_ms"], item["p90_ms"], item["p99_ms"], item["last_ts"])
    ]
    text = node.cli("status").stdout
    row = f"experimental.echo 10 10.0% {item['p50_ms']:.1f} {item['p90_ms']:.1f} {item['p99_ms']:.1f}"
    assert row in [" ".join(line.split()) for line in text.splitlines()]

    assert node.stop() == 0
    down = json.loads(node.cli("status", "--json").stdout)
    assert (down["running"], down["ring"], down["telemetry"]) == (False, up["ring"], {"store": "ok"})
    assert row in [" ".join(line.split()) for line in node.cli("status").stdout.splitlines()]


def test_status_with_nothing_to_read(stopped_node):
    """No database yet is no trouble; one that cannot be read is told, and the rest is shown all the same."""
    fresh = json.loads(stopped_node.cli("status", "--json").stdout)
    assert (fresh["ring"], fresh["telemetry"]) == ([], {"store": "ok"})

    (stopped_node.data_dir / "telemetry.db").write_bytes(b"dear diary\n" * 500)
    done = stopped_node.cli("status", "--json")
    broken = json.loads(done.stdout)
    assert (done.returncode, broken["ring"], broken["community"]) == (0, [], "home")
    assert "cannot be read" in broken["telemetry"]["store"]
    assert "capability" not in stopped_node.cli("status").stdout
