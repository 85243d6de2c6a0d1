"""Exports to a real backend, Arize Phoenix, which is killed half-way: a soak, run by itself.

Phoenix gets an environment of its own, `.venv-phoenix`: it has two hundred dependencies, which are none of ours. It
keeps traces alone, so log records are refused, as by many backends.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from support.ports import reserve_port
from support.waiting import nothing_happens, wait_until

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.otel.export.status import read_status
from hearthnet.observability.traces.traceparent import to_w3c

ROOT = Path(__file__).parent.parent.parent
START_S = 180.0
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
    """Waits until Phoenix has these traces."""
    wanted = {to_w3c(one) for one in ids}

    def missing() -> set[str]:
        nothing_happens(0.5)  # each look reads all of its spans
        return wanted - {span["context"]["trace_id"] for span in spans_of(port)}

    wait_until(lambda: not missing(), lambda: f"{len(missing())} of {len(wanted)} are missing", START_S)


def export(program: Path, folder: Path, calls: int) -> dict[str, Any]:
    """Records, kills Phoenix half-way, starts it again; returns what it has in the end."""
    port = reserve_port()
    settings = ObservabilityConfig(
        data_dir=folder / "data", log_dir=folder / "logs", otlp_endpoint=f"http://127.0.0.1:{port}"
    )
    (folder / "phoenix").mkdir()
    ids: list[str] = []
    with telemetry.open(settings) as recording:
        with running(program, folder / "phoenix", port):
            ids += [record(number) for number in range(calls // 2)]
            wait_for(port, ids)  # Phoenix says that it has them before it has stored them
        ids += [record(number) for number in range(calls // 2, calls)]
        recording.flush()
        wait_until(lambda: "traces" in read_status(settings.data_dir).get("troubles", {}), "no outage", START_S)
        began = time.monotonic()
        with running(program, folder / "phoenix", port):
            wait_for(port, ids)
            took_s = time.monotonic() - began
            spans = spans_of(port)
    return {"calls": calls, "caught_up_s": round(took_s, 1), **figures(spans), "status": read_status(settings.data_dir)}


def figures(spans: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what can be counted of spans, and asserts what must hold."""
    ids = {span["context"]["span_id"] for span in spans}
    statuses = Counter(span["status_code"] for span in spans if not span["parent_id"])
    models = [span for span in spans if span["name"] == "chat tiny"]
    orphans = [span for span in spans if span["parent_id"] and span["parent_id"] not in ids]
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
    """Exports 1,000 calls to Phoenix, a tenth of them failed; exits with 1 if one is missing or differs."""
    parser = argparse.ArgumentParser(prog="scripts/soak otlp", description=main.__doc__)
    parser.add_argument("--calls", type=int, default=1_000, help="how many (1000)")
    parser.add_argument("--phoenix", type=Path, help="program to use instead of that of .venv-phoenix")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    program = chosen.phoenix or installed()
    with tempfile.TemporaryDirectory() as folder:
        found = export(program, Path(folder), chosen.calls)
    if chosen.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<16} {value}")
    failed = len(range(0, chosen.calls, 10))
    is_right = (found["traces"], found["twice"], found["orphans"]) == (chosen.calls, 0, 0)
    sys.exit(not (is_right and found["roots_by_status"].get("ERROR") == failed))


if __name__ == "__main__":
    main()
