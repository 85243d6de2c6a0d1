"""A real node that is told to stop while it works: what is under way ends in an orderly manner, and then the node."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx


def test_calls_under_way_end(node):
    """A call of three seconds is answered, one of a minute is told, one that comes too late is refused; exit 0."""
    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(node.echo, "short", delay_ms=3_000)
        long = pool.submit(node.echo, "long", delay_ms=60_000)
        node.wait_a_while_for(lambda: node.get("/status").json()["calls_in_flight"] == 2)
        node.process.send_signal(signal.SIGTERM)
        answers = []

        def is_refused():
            answers.append(node.echo("late"))
            return answers[-1].status_code != 200

        node.wait_a_while_for(is_refused)
        late, cut = answers[-1], long.result()
    assert node.process.wait(15) == 0

    assert short.result().json() == {"text": "short", "delay_ms": 3_000}
    for answer in (late, cut):
        assert (answer.status_code, answer.json()["error"], answer.headers["connection"]) == (503, "partition", "close")
    assert late.json()["retry_after_ms"] > 0
    assert "stopping" in late.json()["message"]
    results = node.sql("SELECT result FROM traces WHERE duration_ms > 2000 ORDER BY result")
    assert results == [("cancelled",), ("ok",)]
    assert node.sql("SELECT count(*) FROM traces") == [(2 + len(answers) - 1,)]  # what came too late is none
    assert node.sql("SELECT end_reason FROM runs") == [("clean",)]
    assert [line["calls"] for line in node.log_lines() if line["msg"] == "calls cut short: the node stops"] == [1]
    assert not [line for line in node.log_lines() if line["level"] == "error"]


def test_idle_node_stops_at_once(node):
    """Connections that are open and have nothing to do keep nobody waiting: their port is closed, the exit is 0."""
    with httpx.Client(verify=False) as client:
        assert node.echo("hello", client).status_code == 200
        assert node.stop() == 0
    assert not [line for line in node.log_lines() if line["msg"] == "waiting for calls to end"]
