"""Exports to a real backend, Arize Phoenix, while it, a program or a node is killed: a soak, run by itself.

Phoenix gets an environment of its own, `.venv-phoenix`: it has two hundred dependencies, which are none of ours. It
keeps traces alone, so log records are refused, as by many backends.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.nodes import end, make_node
from support.ports import reserve_port
from support.reading import rows
from support.running_node import RunningNode
from support.waiting import nothing_happens, wait_until

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.otel.export.status import read_status
from hearthnet.observability.traces.traceparent import to_w3c

ROOT = Path(__file__).parent.parent.parent
START_S = 180.0  # also between two arrivals
LOOK_S = 2.0  # each look reads all of its spans
CALLS = ("soak.call", "llm.chat", "experimental.echo")
# Of the spans that are made here: the names of those that may be their parents.
PARENTS = {"soak.call": None, "llm.chat": None, "handle": CALLS, "chat tiny": ("handle",)}
RESULTS = "SELECT result, count(*) FROM traces WHERE capability = 'experimental.echo' GROUP BY result ORDER BY result"
MODEL = {"backend": "ollama", "model": "tiny", "stream": True, "ttft_ms": 120.0, "tokens_in": 11, "tokens_out": 3,
         "finish_reason": "stop", "outcome": "ok"}  # fmt: skip
log = get_logger("hearthnet.soak")


def installed() -> Path:
    """Returns Phoenix's program; installs it if need be, which takes minutes."""
    program = ROOT / ".venv-phoenix" / "bin" / "phoenix"
    if not program.exists():
        print("installing arize-phoenix into .venv-phoenix", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", program.parent.parent], check=True)
        subprocess.run([program.with_name("pip"), "install", "--quiet", "arize-phoenix"], check=True)
    return program


@contextmanager
def running(program: Path, folder: Path, port: int):
    """Runs Phoenix with its database in a folder."""
    ports = {"PHOENIX_PORT": str(port), "PHOENIX_GRPC_PORT": str(reserve_port()), "PHOENIX_HOST": "127.0.0.1"}
    environment = {**os.environ, **ports, "PHOENIX_WORKING_DIR": str(folder), "PHOENIX_TELEMETRY_ENABLED": "false"}
    with (folder / "phoenix.log").open("ab") as out:
        process = subprocess.Popen([program, "serve"], env=environment, stdout=out, stderr=out)
    try:
        wait_until(lambda: process.poll() is not None or responds(port), "Phoenix does not respond", START_S)
        assert process.poll() is None, (folder / "phoenix.log").read_text()[-2_000:]
        yield process
    finally:
        process.kill()
        process.wait()


def responds(port: int) -> bool:
    """Returns whether it is ready."""
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    return False


def record(number: int) -> str:
    """Records a call: each tenth fails, each seventh is one of a language model; returns its trace id."""
    capability = "llm.chat" if number % 7 == 0 else "soak.call"
    with trace.new_trace(capability) as made, trace.span("handle", n=number):
        if number % 7 == 0:
            with trace.span("generate", **MODEL):
                pass
        if number % 10 == 0:
            made.fail("timeout", "TimeoutError: late")
            log.warning("late", extra={"n": number})
    return made.trace_id


def spans_of(port: int) -> list[dict[str, Any]]:
    """Returns every span that Phoenix has."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        given = {"limit": 1_000, **({"cursor": cursor} if cursor else {})}
        response = httpx.get(f"http://127.0.0.1:{port}/v1/projects/default/spans", params=given, timeout=60)
        if response.status_code == 404:  # no project before the first span
            return found
        response.raise_for_status()
        document = response.json()
        found += document["data"]
        cursor = document.get("next_cursor")
        if not cursor:
            return found


def wait_for(port: int, ids: list[str]) -> None:
    """Waits until Phoenix has these traces, as long as more of them arrive: it stores them after it has said so."""
    wanted = {to_w3c(one) for one in ids}
    missing, ends_at = wanted, time.monotonic() + START_S
    while missing:
        assert time.monotonic() < ends_at, f"{len(missing)} of {len(wanted)} are missing, and none arrives"
        nothing_happens(LOOK_S)
        left = wanted - {span["context"]["trace_id"] for span in spans_of(port)}
        if len(left) < len(missing):
            ends_at = time.monotonic() + START_S
        missing = left


def child_of(settings: ObservabilityConfig, first: int, calls: int) -> subprocess.Popen[str]:
    """Starts a program that records calls, prints their ids, and ends in order when its input does."""
    command = [sys.executable, __file__, "--record", str(first), str(calls), settings.model_dump_json()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def record_as_child(first: int, calls: int, settings: ObservabilityConfig) -> None:
    """What such a program does."""
    with telemetry.open(settings):
        for number in range(first, first + calls):
            print(record(number))
        print(flush=True)
        sys.stdin.read()


def ids_from(child: subprocess.Popen[str]) -> list[str]:
    """Returns the ids that a program has printed when it has recorded all of its calls."""
    return [line.strip() for line in iter(child.stdout.readline, "\n")]


def recorded(settings: ObservabilityConfig, first: int, calls: int, *, is_killed: bool) -> list[str]:
    """Records calls in a program of its own, which is killed, or ends in order; returns their ids."""
    child = child_of(settings, first, calls)
    ids = ids_from(child)
    if is_killed:
        child.kill()
    child.stdin.close()
    child.wait()
    return ids


def killed_in_mid_export(settings: ObservabilityConfig, port: int, first: int, calls: int) -> list[str]:
    """Records calls in a program that is killed when some of them have arrived; returns the ids of all."""
    before = len({span["context"]["trace_id"] for span in spans_of(port)})
    child = child_of(settings, first, calls)
    ids = ids_from(child)
    wait_until(lambda: len({span["context"]["trace_id"] for span in spans_of(port)}) > before, "none arrives", START_S)
    child.kill()
    child.wait()
    return ids


def node_killed_in_mid_export(folder: Path, port: int, calls: int) -> dict[str, Any]:
    """Kills a node that has been called, when some of its traces have arrived, and starts it again; returns figures."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(folder))
        patched.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        node = make_node(folder, reserve_port())
        try:
            node.start()
            with httpx.Client(verify=False) as client:
                for number in range(calls):
                    assert node.echo(f"call {number}", client).status_code == 200
            waiting = threading.Thread(target=call_in_vain, args=(node,))
            waiting.start()
            wait_until(lambda: node.get("/status").json()["calls_in_flight"] == 1, "no call in flight", START_S)
            wait_until(lambda: any(map(is_echo, spans_of(port))), "none arrives", START_S)
            node.stop(signal.SIGKILL)
            waiting.join()
            sent = sum(map(is_echo, spans_of(port)))
            node.start()
            node.wait_for_sql([("interrupted", 1), ("ok", calls)], RESULTS)
            wait_for(port, [trace_id for (trace_id,) in node.sql("SELECT trace_id FROM traces")])
            late = times_off(spans_of(port), node.data_dir)
            return {"calls": calls, "arrived_before_the_kill": sent, "times_off": late, "exit": node.stop()}
        finally:
            end(node)


def is_echo(span: dict[str, Any]) -> bool:
    """Returns whether it is a call of a node."""
    return span["name"] == "experimental.echo"


def call_in_vain(node: RunningNode) -> None:
    """A call that a kill cuts short."""
    with suppress(httpx.TransportError):
        node.echo("slow", delay_ms=60_000)


def times_off(spans: list[dict[str, Any]], data_dir: Path) -> int:
    """Returns how many traces have not the start and end that the store has, to the microsecond."""
    roots = {span["context"]["trace_id"]: span for span in spans if span["name"] in CALLS}
    found = rows(data_dir / "telemetry.db", "SELECT trace_id, started_us, duration_ms FROM traces")
    known = [(roots[to_w3c(trace_id)], start, ms) for trace_id, start, ms in found if to_w3c(trace_id) in roots]
    assert known
    return sum(
        abs(microseconds(root["start_time"]) - start) > 1 or abs(microseconds(root["end_time"]) - start - ms * 1e3) > 1
        for root, start, ms in known
    )


def microseconds(text: str) -> float:
    """Returns a time of Phoenix's as UTC microseconds."""
    return datetime.fromisoformat(text).timestamp() * 1e6


def export(program: Path, folder: Path, calls: int, away: int) -> dict[str, Any]:
    """Records while Phoenix, the program or a node is killed, or Phoenix is away; returns what Phoenix has then."""
    port = reserve_port()
    settings = ObservabilityConfig(
        data_dir=folder / "data", log_dir=folder / "logs", otlp_endpoint=f"http://127.0.0.1:{port}"
    )
    (folder / "phoenix").mkdir()
    ids: list[str] = []
    took_s: dict[str, float] = {}

    def catch_up(name: str) -> None:
        began = time.monotonic()
        wait_for(port, ids)
        took_s[name] = round(time.monotonic() - began, 1)
        print(f"{name}: all of {len(ids):,} have arrived", file=sys.stderr)

    with telemetry.open(settings) as recording:
        with running(program, folder / "phoenix", port):
            ids += [record(number) for number in range(calls // 2)]
            wait_for(port, ids)
        ids += [record(number) for number in range(calls // 2, calls)]
        recording.flush()
        wait_until(lambda: "traces" in read_status(settings.data_dir).get("troubles", {}), "no outage", START_S)
        with running(program, folder / "phoenix", port):
            catch_up("backend killed")
    with running(program, folder / "phoenix", port):
        ids += killed_in_mid_export(settings, port, len(ids), calls)
        with telemetry.open(settings):
            catch_up("program killed in mid-export")
    for name, is_killed in (("backend away", False), ("backend away, program killed", True)):
        ids += recorded(settings, len(ids), away, is_killed=is_killed)
        with running(program, folder / "phoenix", port), telemetry.open(settings):
            catch_up(name)
            spans = spans_of(port)
    found = {
        **figures(spans),
        "times_off": times_off(spans, settings.data_dir),
        "status": read_status(settings.data_dir),
    }
    (folder / "node").mkdir()
    with running(program, folder / "phoenix", port):
        node = node_killed_in_mid_export(folder / "node", port, calls)
    print(f"node killed in mid-export: {node}", file=sys.stderr)
    return {"calls": len(ids), "caught_up_s": took_s, **found, "node": node}


def has_its_parent(span: dict[str, Any], names: dict[str, tuple[str, str]]) -> bool:
    """Returns whether a span is the child of the one in which it was made, or of none if it is a trace's root."""
    wanted = PARENTS[span["name"]]
    if wanted is None:
        return not span["parent_id"]
    trace_id, name = names.get(span["parent_id"], ("", ""))
    return trace_id == span["context"]["trace_id"] and name in wanted


def figures(spans: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what can be counted of spans, and asserts what must hold."""
    ids = {span["context"]["span_id"] for span in spans}
    statuses = Counter(span["status_code"] for span in spans if not span["parent_id"])
    models = [span for span in spans if span["name"] == "chat tiny"]
    names = {span["context"]["span_id"]: (span["context"]["trace_id"], span["name"]) for span in spans}
    orphans = [span for span in spans if not has_its_parent(span, names)]
    return {
        "traces": len({span["context"]["trace_id"] for span in spans}),
        "spans": len(spans),
        "twice": len(spans) - len(ids),
        "orphans": len(orphans),
        "roots_by_status": dict(statuses),
        "model_calls": len(models),
        "exceptions": sum(event["name"] == "exception" for span in spans for event in span["events"]),
    }


def main() -> None:
    """Exports calls to Phoenix, a tenth failed, while it, the program or a node is killed; 1 if one is missing."""
    if sys.argv[1:2] == ["--record"]:
        record_as_child(int(sys.argv[2]), int(sys.argv[3]), ObservabilityConfig.model_validate_json(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(prog="scripts/soak otlp", description=main.__doc__)
    parser.add_argument("--calls", type=int, default=1_000, help="of the first two parts, each (1000)")
    parser.add_argument("--away", type=int, default=5_000, help="calls while Phoenix is away, twice (5000)")
    parser.add_argument("--phoenix", type=Path, help="program to use instead of that of .venv-phoenix")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    program = chosen.phoenix or installed()
    with tempfile.TemporaryDirectory() as folder:
        found = export(program, Path(folder), chosen.calls, chosen.away)
    if chosen.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<16} {value}")
    calls = 2 * (chosen.calls + chosen.away)
    failed = len(range(0, calls, 10))
    is_right = (found["traces"], found["calls"], found["twice"], found["orphans"]) == (calls, calls, 0, 0)
    is_right = is_right and not found["times_off"] and not found["node"]["times_off"] and found["node"]["exit"] == 0
    sys.exit(not (is_right and found["roots_by_status"].get("ERROR") == failed))


if __name__ == "__main__":
    main()
