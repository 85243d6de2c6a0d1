"""A real node under its watchdog: stuck and killed it names the place; stopped and continued it says nothing."""

from __future__ import annotations

import signal
import sys
import threading

import httpx
import orjson
from support.waiting import nothing_happens

from hearthnet.config import load, save
from hearthnet.forensics.gather import gather
from hearthnet.forensics.verdict import judge

# A node with a capability that never gives its loop back.
STUCK_NODE = """
import asyncio, select
from contextlib import closing
from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.config import load, resolve_paths
from hearthnet.node import open_node
from hearthnet.transport.server import bind

async def read_the_meter(request):
    select.select([], [], [])

async def main():
    config = resolve_paths(load())
    with closing(bind(config.transport)) as listening:
        async with open_node(config) as node:
            node.bus.register(CapabilityDescriptor("experimental.meter", (1, 0)), read_the_meter)
            await node.serve(listening, asyncio.Event())

asyncio.run(main())
"""
STUCK = "event loop stuck"


def set_stall(seconds: float) -> None:
    """Changes `stall_s` in the settings of the node that will start."""
    config = load()
    save(config.model_copy(update={"observability": config.observability.model_copy(update={"stall_s": seconds})}))


def stalls(node) -> list[dict]:
    """What the log says of stalls."""
    return [line for line in node.log_lines() if line["msg"] == STUCK]


def test_stuck_node_that_is_killed_names_the_place(stopped_node):
    """The files of the dead node give cause, function and call; the next start has them in the store."""
    node = stopped_node
    set_stall(0.5)
    ordinary, node.command = node.command, [sys.executable, "-c", STUCK_NODE]
    node.start()
    page = node.get("/metrics").text
    assert "hearthnet_event_loop_lag_seconds 0." in page
    calling = threading.Thread(target=call_in_vain, args=(node,))
    calling.start()
    node.wait_a_while_for(lambda: stalls(node))
    node.stop(signal.SIGKILL)
    calling.join()

    verdict = judge(gather(node.data_dir, log_dir=node.log_dir))
    assert verdict.cause == "loop_stuck"
    assert "read_the_meter" in " ".join(verdict.evidence)

    node.command = ordinary
    node.start()
    ((extras,),) = node.sql("SELECT extras FROM logs WHERE msg = ?", STUCK)
    fields = orjson.loads(extras)
    assert (fields["cause"], fields["stack"][0].split()[-1]) == ("blocked", "read_the_meter")
    assert fields["spans"][0]["capability"] == "experimental.meter"
    ((vitals, was_seen),) = node.sql("SELECT vitals, last_seen_us >= started_us FROM runs WHERE end_reason = 'unclean'")
    assert was_seen == 1
    assert orjson.loads(vitals)[-1]["rss_bytes"] > 1_000_000
    assert node.stop() == 0


def call_in_vain(node) -> None:
    """A call whose node dies meanwhile."""
    try:
        node.call({"params": {}, "input": {}}, capability="experimental.meter")
    except httpx.HTTPError:
        return
    raise AssertionError("it was answered")


def test_node_that_was_stopped_and_continued_is_not_stuck(stopped_node):
    """Four seconds under a stop signal are no stall of four seconds, and it answers as before."""
    set_stall(1.0)
    stopped_node.start()
    stopped_node.process.send_signal(signal.SIGSTOP)
    nothing_happens(4)
    stopped_node.process.send_signal(signal.SIGCONT)

    assert stopped_node.echo().status_code == 200
    assert stopped_node.stop() == 0
    assert [line for line in stalls(stopped_node) if line["stuck_s"] > 3] == []
