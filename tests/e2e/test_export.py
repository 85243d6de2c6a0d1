"""A real node whose telemetry goes to a receiver of OTLP: called by another, killed, and started again."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import suppress

import httpx
import pytest
from support.otlp import plain, receiving, spans_in

OTHER = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
BODY = {"params": {}, "input": {"text": "hello"}}


@pytest.fixture
def receiver():
    """A receiver that takes everything."""
    with receiving() as made:
        yield made


def call_in_vain(node):
    """A call that a kill cuts short."""
    with suppress(httpx.TransportError):
        node.echo("slow", delay_ms=60_000)


def results(receiver):
    """The results of all traces that have arrived, in their order: a kill may double the last batch."""
    spans = [span for request in receiver.of("traces") for span in spans_in(request.message)]
    found = {span.span_id: plain(span.attributes).get("hearthnet.result") for span in spans}
    return [result for result in found.values() if result is not None]


def test_calls_of_a_node_arrive_also_after_a_kill(stopped_node, receiver, monkeypatch):
    """A call of another node is its child; one in flight at a kill arrives as interrupted; commands show the state."""
    node = stopped_node
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=home")
    node.start()
    headers = node.headers(BODY, request_id=OTHER) | {"traceparent": f"00-{OTHER}-{SPAN}-01"}
    assert node.call(BODY, headers=headers).status_code == 200
    node.wait_a_while_for(lambda: receiver.names)
    (resource,) = receiver.of("traces")[0].message.resource_spans
    root = next(span for span in spans_in(receiver.of("traces")[0].message) if span.trace_id.hex() == OTHER)
    given = plain(resource.resource.attributes)

    assert (root.parent_span_id.hex(), root.kind, root.flags) == (SPAN, 2, 0x301)
    assert plain(root.attributes)["http.response.status_code"] == 200
    assert (given["process.pid"], given["deployment.environment"]) == (node.process.pid, "home")
    assert given["hearthnet.node_id"] == node.keys.node_id

    calling = threading.Thread(target=call_in_vain, args=(node,))
    calling.start()
    node.wait_a_while_for(lambda: node.get("/status").json()["calls_in_flight"] == 1)
    node.stop(signal.SIGKILL)
    calling.join()
    node.start()
    assert node.echo("after").status_code == 200
    node.wait_a_while_for(lambda: results(receiver) == ["ok", "interrupted", "ok"])
    check = json.loads(node.cli("doctor", "--check", "telemetry_export", "--json").stdout)["checks"][0]
    assert (check["status"], check["evidence"]["troubles"]) == ("pass", {})
    exported = json.loads(node.cli("telemetry", "info", "--json").stdout)
    assert exported["export_status"]["endpoints"]["traces"] == f"{receiver.url}/v1/traces"
    assert node.stop() == 0
    runs = {plain(one.resource.attributes)["service.instance.id"] for request in receiver.of("traces")
            for one in request.message.resource_spans}  # fmt: skip
    assert len(runs) == 2
