"""Calls a real node four times as often as it can serve, and counts what came of it. The soak is this file by itself.

Calls are signed ahead, by the node's own key: no rate limit is in the way of the load. First as many calls are made as
the node serves, by connections that wait for their answers; then the pace is set to four times that, whatever comes
back; then the first again, until it serves as many as before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.callers import Answers, Callers, signed_ahead
from benchmarks.stats import percentile

from hearthnet.config import TransportConfig

WAITING_CONNECTIONS = 32  # enough that the node never waits for a caller
PACED_CONNECTIONS = 400
TIMES = 4
FULL_SPEED = 0.9  # of what was served before: two measurements of the same differ by as much
WINDOW_CALLS = 150  # between two looks at the speed afterwards
RECOVERY_S = 20.0  # no more is waited


def with_room(transport: TransportConfig) -> TransportConfig:
    """The settings of a node that has no fewer connections than callers: it is calls that are too many here."""
    return transport.model_copy(update={"max_connections": 2 * PACED_CONNECTIONS})


async def overload(node, seconds: float, probe_calls: int, share: float = FULL_SPEED) -> dict[str, float]:
    """Overloads a running node for so many seconds; returns the figures.

    Raises:
        AssertionError: raised when an answer was wrong, a call was left without an answer, or speed did not come back.
    """
    await served(node, probe_calls)  # warms up
    before = await served(node, probe_calls)
    rss_before = rss_bytes(node.process.pid)
    pace = TIMES * before.served_per_s
    requests = signed_ahead(node.keys, node.keys.node_id, int(pace * seconds), pace)
    async with Callers.connected(node.port, PACED_CONNECTIONS) as callers:
        during = await callers.at_a_pace(requests, pace)
    ended_at = time.monotonic()
    after, recovered_s = await full_speed(node, share * before.served_per_s, ended_at)
    assert not during.wrong, during.wrong[0]
    assert during.lost == 0
    latency = sorted(during.served_ms)
    return {
        "served_per_s_before": before.served_per_s,
        "offered_per_s": (len(requests) - during.unsent) / during.lasted_s,
        "accepted_per_s": during.served_per_s,
        "accepted_p50_ms": percentile(latency, 0.50),
        "accepted_p99_ms": percentile(latency, 0.99),
        "accepted_max_ms": latency[-1],
        "before_p99_ms": percentile(sorted(before.served_ms), 0.99),
        **{f"refused {kind}": count for kind, count in sorted(during.refused.items())},
        "refused_p99_ms": percentile(sorted(during.refused_ms), 0.99) if during.refused_ms else 0.0,
        "unsent": during.unsent,
        "wrong": len(during.wrong),
        "lost": during.lost,
        "served_per_s_after": after,
        "full_speed_after_s": recovered_s,
        "rss_before_mb": rss_before / 1e6,
        "rss_after_mb": rss_bytes(node.process.pid) / 1e6,
    }


async def served(node, calls: int) -> Answers:
    """What the node serves when callers wait for their answers."""
    requests = signed_ahead(node.keys, node.keys.node_id, calls)
    async with Callers.connected(node.port, WAITING_CONNECTIONS) as callers:
        return await callers.one_after_another(requests)


async def full_speed(node, wanted_per_s: float, since: float) -> tuple[float, float]:
    """Measures until the node serves as before; returns the speed, and how long after `since` that began."""
    while True:
        began_s = time.monotonic() - since
        answers = await served(node, WINDOW_CALLS)
        if answers.served_per_s >= wanted_per_s:
            return answers.served_per_s, began_s
        assert began_s < RECOVERY_S, (answers.served_per_s, wanted_per_s)


def rss_bytes(pid: int) -> int:
    """The memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def start_node(home: Path, command: list[str] | None = None):
    """A running node in a home of its own, started by another command if one is given."""
    from support.ports import reserve_port
    from support.running_node import RunningNode

    from hearthnet.config import load, resolve_paths, save
    from hearthnet.node import initialise

    os.environ["HOME"] = str(home)
    config, port = load(), reserve_port()
    made = initialise(resolve_paths(config), "home")
    changes = {
        "community": config.community.model_copy(update={"community_id": made.manifest.community_id}),
        "transport": with_room(config.transport.model_copy(update={"host": "127.0.0.1", "port": port})),
        "emergency": config.emergency.model_copy(update={"probe_targets": ()}),
    }
    save(config.model_copy(update=changes))
    node = RunningNode(home, port)
    node.command = command or node.command
    node.start()
    return node


def main() -> None:
    """The soak: a node under four times the calls that it can serve."""
    parser = argparse.ArgumentParser(prog="scripts/soak overload", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--probe-calls", type=int, default=5_000, help="so many find out what it can serve (5000)")
    parser.add_argument("--share", type=float, default=FULL_SPEED, help="of the speed before is full speed (0.9)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = start_node(Path(folder))
        try:
            figures = asyncio.run(overload(node, chosen.seconds, chosen.probe_calls, chosen.share))
        finally:
            code = node.stop()
    figures["exit_code"] = code
    if chosen.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<28} {value:,.2f}" if isinstance(value, float) else f"{name:<28} {value:,}")


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    main()
