"""What the export by OTLP costs: 10,000 traces that wait in the store; the SDK's exporter with the same in memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.export_child import CONTENDERS, TRACES
from benchmarks.progress import scratch, tell
from benchmarks.report import Aim, Line, Section
from benchmarks.stats import Spread

__all__ = ["export"]

_SCRIPTS: Final = Path(__file__).parent.parent
_TIMEOUT_S: Final = 180.0


class _Receiver(BaseHTTPRequestHandler):
    """Takes everything at once, undecoded."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Takes a request."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stays quiet."""


@contextmanager
def _receiving() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def export(is_quick: bool) -> list[Section]:
    """Returns the CPU of either, and what the lag of an event loop gains."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    turns = 2 if is_quick else 5
    with _receiving() as url:
        for turn in range(turns):
            for name in CONTENDERS:
                tell(f"export: turn {turn + 1} of {turns}, {name}")
                found[name].append(_turn(name, url))
    return [_section(found)]


def _turn(name: str, url: str) -> dict[str, Any]:
    """Runs one contender in a process of its own."""
    with scratch() as folder:
        command = [sys.executable, "-m", "benchmarks.export_child", name, url, str(folder)]
        done = subprocess.run(command, cwd=_SCRIPTS, check=True, stdout=subprocess.PIPE, timeout=_TIMEOUT_S)  # noqa: S603
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result


def _section(found: dict[str, list[dict[str, Any]]]) -> Section:
    section = Section("export of 10,000 traces by OTLP", "OpenTelemetry's exporter")
    ours, theirs = ([each["cpu_s"] * 1e3 for each in found[name]] for name in ("ours", "peer"))
    is_whole = all(each["sent"] == TRACES for turns in found.values() for each in turns)
    ratio = Spread.of_ratios(ours, theirs)
    section.lines.append(
        Line("CPU of all threads", Spread.of(ours), "ms", Spread.of(theirs), ratio, Aim(1.5), is_whole)
    )
    gained = {name: [each["p99"] - each["idle"] for each in turns] for name, turns in found.items()}
    section.lines.append(
        Line("what p99 of the loop's lag gains", Spread.of(gained["ours"]), "ms", Spread.of(gained["peer"]))
    )
    took = [Spread.of(each["took_s"] for each in found[name]) for name in ("ours", "peer")]
    section.lines.append(Line("time", took[0], "s", took[1]))
    return section
