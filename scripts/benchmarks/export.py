"""What the export by OTLP costs: 10,000 traces that wait, against the SDK's exporter; and while a program records."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
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
_RATE: Final = 1_000  # traces a second of a busy program
_NOBODY: Final = "http://127.0.0.1:9"  # a port where nothing listens
_LIVE: Final = {"off": "export off", "on": "export on", "failing": "export failing"}

Turns = dict[str, list[dict[str, Any]]]


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
    """Returns what a backlog costs, by either, and what a program notices that exports, or cannot."""
    found: Turns = {name: [] for name in CONTENDERS}
    live: Turns = {name: [] for name in _LIVE}
    turns, seconds = (2, 3.0) if is_quick else (5, 8.0)
    with _receiving() as url:
        for turn in range(turns):
            for name in CONTENDERS:
                tell(f"export: turn {turn + 1} of {turns}, {name}")
                found[name].append(_turn("export_child", lambda folder, name=name: [name, url, folder]))
            for name, endpoint in (("off", []), ("on", [url]), ("failing", [_NOBODY])):
                tell(f"export: turn {turn + 1} of {turns}, {_LIVE[name]}")
                given = ["ours", str(seconds), str(_RATE), *endpoint]
                live[name].append(_turn("lag_child", lambda folder, given=given: [*given[:2], folder, *given[2:]]))
    return [_backlog(found), _live(live)]


def _turn(module: str, arguments: Callable[[str], list[str]]) -> dict[str, Any]:
    """Runs one turn in a process of its own, whose arguments are made of the name of a folder."""
    with scratch() as folder:
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments(str(folder))]
        done = subprocess.run(command, cwd=_SCRIPTS, check=True, stdout=subprocess.PIPE, timeout=_TIMEOUT_S)  # noqa: S603
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result


def _backlog(found: Turns) -> Section:
    section = Section("export of 10,000 traces by OTLP", "OpenTelemetry's exporter")
    ours, theirs = ([each["cpu_s"] * 1e3 for each in found[name]] for name in ("ours", "peer"))
    is_whole = all(each["sent"] == TRACES for turns in found.values() for each in turns)
    ratio = Spread.of_ratios(ours, theirs)
    section.lines.append(
        Line("CPU of all threads", Spread.of(ours), "ms", Spread.of(theirs), ratio, Aim(1.5), is_whole)
    )
    for figure in ("p50", "p99"):
        gained = [Spread.of(each[figure] - each[f"idle_{figure}"] for each in found[name]) for name in ("ours", "peer")]
        section.lines.append(Line(f"what {figure} of the loop's lag gains", gained[0], "ms", gained[1]))
    took = [Spread.of(each["took_s"] for each in found[name]) for name in ("ours", "peer")]
    section.lines.append(Line("time", took[0], "s", took[1]))
    return section


def _live(found: Turns) -> Section:
    section = Section(f"a program that makes {_RATE:,} traces a second", "export off")
    for figure, unit in (("p50", "ms"), ("p99", "ms"), ("caller_us", "us")):
        spreads = {name: Spread.of(each[figure] for each in turns) for name, turns in found.items()}
        told = "CPU of a trace" if unit == "us" else f"{figure} of the lag"
        for name in ("on", "failing"):
            section.lines.append(Line(f"{_LIVE[name]}: {told}", spreads[name], unit, spreads["off"]))
        section.notes.append(f"{told}, export off: {spreads['off'].low:.2f} to {spreads['off'].high:.2f} {unit}")
    return section
