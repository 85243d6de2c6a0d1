"""Gives a real node good, bad and hostile traffic at once, for long. The soak is this file by itself.

The good calls come from one address and must be answered, rightly and soon. The bad are signed and then spoilt, each in
its own way; none may be served, and none may make the node fail. The hostile come from addresses of their own and hold
connections, send halves, rubbish and floods; all that is asked of them is what the node looks like meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from benchmarks.callers import Request, signed_ahead
from benchmarks.stats import percentile
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client.parser import text_string_to_metric_families

from hearthnet.config import load
from hearthnet.identity.keys import KeyPair
from hearthnet.observability.store.budget import MB, disk_bytes

ADDRESS, BAD_ADDRESS, HOSTILE_ADDRESS = "127.0.0.1", "127.0.0.2", "127.0.0.3"
ANSWER_S = 20.0  # whoever waits longer has been forgotten
HOLD_S = 5.0  # how long a hostile connection is held
GOOD_PER_S, BAD_PER_S, HOSTILE_PER_S = 40.0, 40.0, 8.0
# What is still in order. A machine that does other things too is slow now and then.
MAX_P99_MS = 2_000.0
MAX_REFUSED_SHARE = 0.01  # of the good calls
MAX_RSS_GROWTH_MB = 64.0  # rings, caches and the allocator fill up in the first minutes
MAX_OPEN_FILES = 400
MAX_LOG_MB_A_MINUTE = 2.0  # half of it the lines of the good calls


@dataclass
class Tally:
    """What came of it."""

    calls: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    served_ms: list[float] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)


async def ask(port: int, wire: bytes, address: str = ADDRESS) -> tuple[int, bytes]:
    """Sends bytes on a connection of their own; returns status and answer, or 0 where the node just closed.

    Raises:
        TimeoutError: raised when nothing came.
    """
    async with asyncio.timeout(ANSWER_S):
        try:
            reader, writer = await asyncio.open_connection(ADDRESS, port, local_addr=(address, 0))
        except OSError:
            return 0, b""
        try:
            writer.write(wire)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            body = await (reader.readexactly(int(length[1])) if length else reader.read(64))
            return int(head.split()[1]), body
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return 0, b""
        finally:
            writer.transport.abort()


async def good(node, _, tally: Tally) -> None:
    """A call that is right: its answer must be, too."""
    (request,) = signed_ahead(node.keys, node.keys.node_id, 1)
    began = time.perf_counter()
    status, body = await ask(node.port, request.wire)
    if status == 200:
        tally.served_ms.append((time.perf_counter() - began) * 1e3)
        if request.marks[0] not in body:
            tally.wrong.append(f"good: {body[:200]!r}")
    tally.calls[f"good {status}"] += 1


def spoilt(node, chance: random.Random) -> tuple[str, bytes]:
    """A call that must not be served, and what is wrong with it."""
    stranger = KeyPair(Ed25519PrivateKey.generate())
    made: dict[str, Callable[[Request], bytes]] = {
        "altered signature": lambda call: re.sub(rb"(?<=Signature: ed25519:).", other_character, call.wire),
        "altered capability": lambda call: call.wire.replace(b"experimental.echo", b"experimental.ecco", 1),
        "altered body": lambda call: call.wire.replace(b'"text":"call', b'"text":"cell', 1),
        "unsigned": lambda call: re.sub(rb"X-HearthNet-Signature: [^\r]*\r\n", b"", call.wire),
        "stranger": lambda _: signed_ahead(stranger, node.keys.node_id, 1)[0].wire,
        "old": lambda call: re.sub(rb"Timestamp: \d{4}", b"Timestamp: 2001", call.wire),
        "no json": lambda call: with_body(call.wire, b'{"input": NaN}'),
        "surrogate": lambda call: with_body(call.wire, b'{"input": {"text": "\\ud800"}}'),
        "deep": lambda call: with_body(call.wire, 5_000 * b"[" + 5_000 * b"]"),
        "large": lambda call: with_body(call.wire, b'{"input": "' + 3_000_000 * b"x" + b'"}'),
        "no path": lambda call: call.wire.replace(b"/bus/v1/call", b"/bus/v2/call", 1),
        "again": lambda call: call.wire,
        "no method": lambda call: call.wire.replace(b"POST ", b"DELETE ", 1),
    }
    kind = chance.choice(list(made))
    return kind, made[kind](signed_ahead(node.keys, node.keys.node_id, 1)[0])


def other_character(found: re.Match[bytes]) -> bytes:
    """Any but the one that is there."""
    return b"B" if found[0] == b"A" else b"A"


def with_body(wire: bytes, body: bytes) -> bytes:
    """A call with another body, which is not what was signed."""
    head = wire.partition(b"\r\n\r\n")[0]
    return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + b"\r\n\r\n" + body


async def bad(node, chance: random.Random, tally: Tally) -> None:
    """A call that is wrong: it must be refused, and not by a failure of the node."""
    kind, wire = spoilt(node, chance)
    if kind == "again":  # the first time it is as good as any
        await ask(node.port, wire, BAD_ADDRESS)
    status, body = await ask(node.port, wire, BAD_ADDRESS)
    tally.calls[f"bad {status}"] += 1
    if status < 400 and (status or kind != "large"):  # an answer to what is not read to its end may be lost
        tally.wrong.append(f"{kind}: {status} {body[:200]!r}")
    if status == 500:
        tally.wrong.append(f"{kind}: {body[:200]!r}")


async def hostile(node, chance: random.Random, tally: Tally) -> None:
    """A connection that sends what nobody should, and goes when it likes."""
    (call,) = signed_ahead(node.keys, node.keys.node_id, 1)
    kind, pieces = chance.choice(
        [
            ("half a head", [call.wire[:100]]),
            ("half a body", [call.wire[:-20]]),
            ("drop by drop", [call.wire[at : at + 8] for at in range(0, 200, 8)]),
            ("rubbish", [chance.randbytes(2_000)]),
            ("endless head", [b"GET / HTTP/1.1\r\n", *(20 * [b"X-A: " + 10_000 * b"a" + b"\r\n"])]),
            ("two lengths", [call.wire.replace(b"Host:", b"Content-Length: 1\r\nHost:", 1)]),
            ("foreign host", [call.wire.replace(b"Host: 127.0.0.1", b"Host: evil.example", 1)]),
            ("foreign page", [call.wire.replace(b"Host:", b"Origin: http://evil.example\r\nHost:", 1)]),
            ("many at once", [50 * call.wire]),
            ("nothing", []),
        ]
    )
    tally.calls[f"hostile {kind}"] += 1
    with suppress(OSError):
        _, writer = await asyncio.open_connection(ADDRESS, node.port, local_addr=(HOSTILE_ADDRESS, 0))
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.05)
            await asyncio.sleep(chance.uniform(0, HOLD_S))
        finally:
            writer.transport.abort()


async def at_a_pace(act: Callable[[], Awaitable[None]], per_s: float, ends_at: float, tally: Tally) -> None:
    """Starts so many a second, whatever becomes of them, and waits for the last."""

    async def counted() -> None:
        try:
            await act()
        except TimeoutError:
            tally.wrong.append(f"no answer within {ANSWER_S:g} s")

    async with asyncio.TaskGroup() as group:
        while time.monotonic() < ends_at:
            group.create_task(counted())
            await asyncio.sleep(1 / per_s)


async def watch(node, every_s: float, ends_at: float, tally: Tally) -> None:
    """Looks at the process and its files."""
    while True:
        tally.samples.append(await asyncio.to_thread(sample, node))
        if time.monotonic() >= ends_at:
            return
        await asyncio.sleep(min(every_s, max(0.0, ends_at - time.monotonic())))


def sample(node) -> dict[str, float]:
    """The size of the process and of its files."""
    from overload import rss_bytes

    pid = node.process.pid
    parts = disk_bytes(node.data_dir, node.log_dir)
    return {
        "rss_mb": rss_bytes(pid) / MB,
        "open_files": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "disk_mb": sum(parts.values()) / MB,
        "log_mb": parts["logs"] / MB,
    }


async def mixed(node, seconds: float, every_s: float, number: int = 0) -> Tally:
    """Sends all kinds for so many seconds, looking at the node every so often."""
    tally = Tally()
    ends_at = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for act, per_s in ((good, GOOD_PER_S), (bad, BAD_PER_S), (hostile, HOSTILE_PER_S)):
            chance = random.Random(f"{number} {act.__name__}")
            made = at_a_pace(lambda act=act, chance=chance: act(node, chance, tally), per_s, ends_at, tally)
            group.create_task(made)
        group.create_task(watch(node, every_s, ends_at, tally))
    return tally


def refused_by_reason(node) -> dict[str, float]:
    """What the node says of its refusals: at the door, of signatures, for want of time."""
    page = node.get("/metrics").text
    names = ("hearthnet_refused_total", "hearthnet_signature_failures_total", "hearthnet_rate_limited_total")
    return {
        f"refused {' '.join(found.labels.values())}": found.value
        for family in text_string_to_metric_families(page)
        for found in family.samples
        if found.name in names
    }


def failing_checks(node) -> set[str]:
    """What the doctor finds wrong with the node."""
    done = node.cli("doctor", "--json")
    return {check["name"] for check in orjson.loads(done.stdout)["checks"] if not check["ok"]}


def broken_bounds(tally: Tally, figures: dict, limit_mb: float, minutes: float) -> list[str]:
    """Which bounds were not kept, in words."""
    made = sum(count for kind, count in tally.calls.items() if kind.startswith("good "))
    log_mb = tally.samples[-1]["log_mb"] - tally.samples[0]["log_mb"]
    held = {
        f"an answer was wrong: {tally.wrong[:3]}": not tally.wrong,
        "good calls were refused": made - len(tally.served_ms) <= MAX_REFUSED_SHARE * made,
        "good calls were slow": figures["good_p99_ms"] <= MAX_P99_MS,
        "memory grew": figures["rss_growth_mb"] <= MAX_RSS_GROWTH_MB,
        "too many files were open": figures["open_files_max"] <= MAX_OPEN_FILES,
        "the files outgrew max_disk_mb": figures["disk_mb_max"] <= limit_mb,
        "the log grew too fast": log_mb <= MAX_LOG_MB_A_MINUTE * max(1.0, minutes),
        f"the doctor found what it had not before: {figures['doctor_new']}": not figures["doctor_new"],
        "the node did not stop in good order": figures["exit_code"] == 0,
    }
    return [bound for bound, is_held in held.items() if not is_held]


def measured(tally: Tally) -> dict:
    """The figures of what was seen."""
    columns = {name: [found[name] for found in tally.samples] for name in tally.samples[0]}
    early = columns["rss_mb"][: max(1, len(columns["rss_mb"]) // 4)]
    return {
        **dict(sorted(tally.calls.items())),
        "wrong": len(tally.wrong),
        "good_p50_ms": percentile(sorted(tally.served_ms), 0.50),
        "good_p99_ms": percentile(sorted(tally.served_ms), 0.99),
        **{f"{name}_max": max(values) for name, values in columns.items()},
        **{f"{name}_last": values[-1] for name, values in columns.items()},
        "rss_growth_mb": columns["rss_mb"][-1] - max(early),
    }


def soak(node, seconds: float, every_s: float, number: int = 0) -> tuple[dict, list[str]]:
    """Runs it all on a running node, and stops that; returns the figures, and the bounds that were broken."""
    before = failing_checks(node)
    tally = asyncio.run(mixed(node, seconds, every_s, number))
    figures = {**measured(tally), **refused_by_reason(node)}
    figures["doctor_new"] = sorted(failing_checks(node) - before)
    figures["samples"] = tally.samples
    figures["exit_code"] = node.stop()
    return figures, broken_bounds(tally, figures, load().observability.max_disk_mb, seconds / 60)


def main() -> int:
    """The soak: good, bad and hostile traffic together, and what the node looks like meanwhile."""
    from overload import start_node

    parser = argparse.ArgumentParser(prog="scripts/soak mixed", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--sample-s", type=float, default=10.0, help="seconds between two looks at the node (10)")
    parser.add_argument("--seed", type=int, default=0, help="of what is sent")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = start_node(Path(folder))
        try:
            figures, broken = soak(node, chosen.minutes * 60, chosen.sample_s, chosen.seed)
        finally:
            if node.process.poll() is None:
                node.stop()
    if chosen.json:
        print(json.dumps({**figures, "broken": broken}))
        return 1 if broken else 0
    for found in figures.pop("samples"):
        print("  ".join(f"{name} {value:,.1f}" for name, value in found.items()))
    for name, value in figures.items():
        print(f"{name:<40} {value:,.2f}" if isinstance(value, float) else f"{name:<40} {value}")
    for bound in broken:
        print(f"broken: {bound}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    sys.exit(main())
