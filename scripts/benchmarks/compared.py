"""The libraries of docs/compared.md, run as they are printed there: what each shows, what survives, what it costs."""

from __future__ import annotations

import gzip
import json
import os
import platform
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

__all__ = ["PACKAGES", "PAGE", "Found", "Measured", "measure", "programs", "report", "run", "written_into"]

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "compared.md"
PACKAGES: Final = {
    "HearthNet": "hearthnet",
    "structlog": "structlog",
    "loguru": "loguru",
    "Logfire": "logfire",
    "OpenTelemetry": "opentelemetry-sdk",
}
_IMPORTED: Final = PACKAGES | {"OpenTelemetry": "opentelemetry.exporter.otlp"}
_BEGIN: Final = "<!-- measured -->\n"
_END: Final = "<!-- end -->"
_SHOWN_LINES: Final = 3
_SHOWN_CHARS: Final = 120
_LINE_CHARS: Final = 124
_TIMEOUT_S: Final = 120
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

# Appended to a program. Its last call is killed in the middle of its work.
_KILLED: Final = """

import os, signal, sys, time

count, pace_s = int(sys.argv[1]), float(sys.argv[2])
for number in range(count):
    order(number, lambda: None)
    time.sleep(pace_s)
order(count, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""
# In bursts of twenty, below a thousand orders a second: of more HearthNet would not write each line.
_TIMED: Final = """

import sys, time

count, pace_s = int(sys.argv[1]), float(sys.argv[2])
spent_s = 0.0
for number in range(-count // 10, count, 20):
    began_s = time.thread_time()
    for each in range(number, number + 20):
        order(each, lambda: None)
    if number >= 0:
        spent_s += time.thread_time() - began_s
    time.sleep(20 * pace_s)
sys.stdout.flush()
print("\\ncost", spent_s / count * 1e6, flush=True)
"""
_SHOWN: Final = """

order(7, lambda: None)
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What is found after a kill.

    Attributes:
        spans: numbers of orders whose span is found.
        records: numbers of orders whose record "paid" is found.
        knows_last: whether it is found that another order was in progress.
    """

    spans: set[int]
    records: set[int]
    knows_last: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """What was counted of a library.

    Attributes:
        lines: of its program, blank ones not counted.
        terminal: what its program shows on a terminal for one order.
        made: orders that were complete before the kill.
        found: what is found of them after it.
        caller_us: CPU time of the caller for an order, microseconds; the median of the rounds.
        range_us: the least and the most of them.
    """

    lines: int
    terminal: list[str]
    made: int
    found: Found
    caller_us: float
    range_us: tuple[float, float]


def programs() -> dict[str, str]:
    """Returns the programs of the page, by library."""
    found = re.findall(r"^### (\w+)\n(?:.*?)```python\n(.*?)```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return dict(found)


class _Collector(BaseHTTPRequestHandler):
    """A backend that takes OTLP over HTTP and keeps the spans."""

    def do_POST(self) -> None:  # the standard library's name
        """Takes an export."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/traces"):
            request = ExportTraceServiceRequest.FromString(body)
            spans = [
                span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
            ]
            self.server.spans.extend(spans)  # type: ignore[attr-defined]  # of `_backend`
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Stays quiet."""


@contextmanager
def _backend() -> Iterator[tuple[str, list[Any]]]:
    """Yields the URL of a backend on this machine, and the spans that it has."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    server.spans = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.spans  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def measure(name: str, text: str, *, orders: int, pace_s: float, rounds: int, timed: int) -> Measured:
    """Runs a library's program and returns what was counted.

    Args:
        name: of the library.
        text: its program.
        orders: before the kill.
        pace_s: between two of them, and of those that are timed.
        rounds: of the timing.
        timed: orders of a round.
    """
    with _backend() as (url, spans):
        terminal = _terminal(text, url)
        spans.clear()
        found = _after_kill(name, text, url, spans, orders, pace_s)
        costs = [_cost(text, url, timed, pace_s) for _ in range(rounds)]
    lines = sum(bool(line.strip()) for line in text.splitlines())
    return Measured(lines, terminal, orders, found, median(costs), (min(costs), max(costs)))


def _environment(folder: str, url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LOGFIRE_", "XDG_"))}
    # HearthNet exports too where an endpoint is set: not here, it has a store of its own.
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_TRACES_EXPORTER": "otlp"}
    return kept | {"HOME": folder, "TERM": "xterm-256color", "NO_PROXY": "127.0.0.1"} | given


def _run(text: str, folder: str, url: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    program = Path(folder) / "shop.py"
    program.write_text(text)
    environment = _environment(folder, url)
    if "hearthnet" in text:
        del environment["OTEL_EXPORTER_OTLP_ENDPOINT"]
    command = [sys.executable, "shop.py", *map(str, arguments)]
    more |= {"cwd": folder, "env": environment, "text": True, "timeout": _TIMEOUT_S}
    return subprocess.run(command, check=False, **more)  # noqa: S603


def _terminal(text: str, url: str) -> list[str]:
    """Returns what the program of one order shows on a terminal."""
    with TemporaryDirectory() as folder:
        ours, theirs = pty.openpty()
        shown = bytearray()

        def read() -> None:
            with suppress(OSError):  # the end of a terminal
                while part := os.read(ours, 65_536):
                    shown.extend(part)

        reader = threading.Thread(target=read)
        reader.start()
        _run(text + _SHOWN, folder, url, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
        os.close(theirs)
        reader.join()
        os.close(ours)
    lines = [line.rstrip() for line in _ANSI.sub("", shown.decode()).splitlines() if line.strip()]
    return [line[:_SHOWN_CHARS] for line in lines[:_SHOWN_LINES]]


def _after_kill(name: str, text: str, url: str, spans: list[Any], orders: int, pace_s: float) -> Found:
    """Returns what is found of the orders after the kill."""
    with TemporaryDirectory() as folder:
        done = _run(text + _KILLED, folder, url, orders, pace_s, capture_output=True)
        if done.returncode != -signal.SIGKILL:
            raise RuntimeError(f"{name}: {done.stderr}")
        return _FINDERS[name](Path(folder), spans)


def _in_lines(folder: Path, _: list[Any]) -> Found:
    """Returns the records in a file of JSON lines; a torn last line is none."""
    return Found(set(), _numbers_in([folder / "shop.jsonl"]))


def _numbers_in(files: Iterable[Path]) -> set[int]:
    lines = (line for file in files for line in file.read_text("utf-8").splitlines())
    return {number for number in map(_number_in, lines) if number is not None}


def _number_in(line: str) -> int | None:
    with suppress(ValueError):
        record = json.loads(line)
        number = record.get("number", record.get("record", {}).get("extra", {}).get("number"))
        return None if number is None else int(number)
    return None


def _in_spans(_: Path, spans: list[Any]) -> Found:
    """Returns what the backend has; the record is a span of Logfire, and an event of OpenTelemetry."""
    numbers: dict[str, set[int]] = {"pay": set(), "paid": set()}
    for span in spans:
        for item in (span, *span.events):
            numbers.setdefault(item.name, set()).update(
                int(attribute.value.int_value) for attribute in item.attributes if attribute.key == "number"
            )
    return Found(numbers["pay"], numbers["paid"])


def _in_store(folder: Path, _: list[Any]) -> Found:
    """Returns what telemetry.db has after the next program has opened it, and the records in the JSON log."""
    reopen = "from hearthnet import telemetry\nwith telemetry.open('runs'): pass"
    subprocess.run([sys.executable, "-c", reopen], cwd=folder, check=True, env=os.environ | {"HOME": str(folder)})  # noqa: S603
    with closing(sqlite3.connect(folder / "runs" / "telemetry.db")) as store:
        spans = {int(row[0]) for row in store.execute("SELECT extras ->> '$.number' FROM spans WHERE status = 'ok'")}
        knows = store.execute("SELECT count(*) FROM traces WHERE result = 'interrupted'").fetchone() == (1,)
    return Found(spans, _numbers_in((folder / "runs" / "logs").glob("*.log")), knows)


_FINDERS: Final[dict[str, Callable[[Path, list[Any]], Found]]] = {
    "HearthNet": _in_store,
    "structlog": _in_lines,
    "loguru": _in_lines,
    "Logfire": _in_spans,
    "OpenTelemetry": _in_spans,
}


def _cost(text: str, url: str, count: int, pace_s: float) -> float:
    """Returns the CPU time of the caller for one order, microseconds."""
    with TemporaryDirectory() as folder:
        done = _run(text + _TIMED, folder, url, count, pace_s, capture_output=True)
    match = re.search(r"^cost ([\d.]+)$", done.stdout, re.MULTILINE)
    if match is None:
        raise RuntimeError(done.stderr)
    return float(match[1])


def run(*, is_quick: bool, tell: Callable[[str], None]) -> dict[str, Measured]:
    """Measures every library of the page that is installed; `tell` is called with the name of each before it."""
    found = {}
    for name, text in programs().items():
        tell(name)
        if find_spec(_IMPORTED[name]) is not None:
            found[name] = (
                measure(name, text, orders=50, pace_s=0.002, rounds=1, timed=100)
                if is_quick
                else measure(name, text, orders=500, pace_s=0.004, rounds=3, timed=1_000)
            )
    return found


def report(found: dict[str, Measured]) -> str:
    """Returns what was measured as Markdown."""
    versions = ", ".join(f"{name} {version(PACKAGES[name])}" for name in found)
    made = next(iter(found.values())).made
    rows = [
        f"| {name} | {one.lines} | {_count(one.found.spans)} | {_count(one.found.records)}"
        f" | {'known' if one.found.knows_last else '-'} | {one.caller_us:.0f}"
        f" ({one.range_us[0]:.0f}-{one.range_us[1]:.0f}) |"
        for name, one in found.items()
    ]
    shown = [
        f"**{name}**\n\n" + ("\n".join(f"    {line}" for line in one.terminal) or "Nothing.")
        for name, one in found.items()
    ]
    title = (
        f"| library | lines to write | of {made:,} orders spans found after `kill -9` | records found"
        " | order in progress | CPU time of the caller for an order, us |"
    )
    return "\n".join(
        [
            "## What was counted",
            "",
            title,
            "|---|--:|--:|--:|---|--:|",
            *rows,
            "",
            textwrap.fill(
                f"By `scripts/bench compared`, {_today()}, {os.cpu_count()} cores: {versions}; Python "
                f"{platform.python_version()}. CPU time of bursts of twenty orders, 250 a second: the median of three "
                "processes, and their range.",
                _LINE_CHARS,
            ),
            "",
            "## What one sees on a terminal",
            "",
            "The first lines of one order, 120 characters of each, without their colours.",
            "",
            "\n\n".join(shown),
            "",
        ]
    )


def _today() -> str:
    """Returns the day in words: 1 December 2026."""
    today = datetime.now().astimezone()
    return f"{today.day} {today:%B %Y}"


def _count(numbers: set[int]) -> str:
    return f"{len(numbers):,}" if numbers else "-"


def written_into(page: str, text: str) -> str:
    """Returns the page with this text in the place of what was measured before."""
    head, rest = page.split(_BEGIN)
    return head + _BEGIN + "\n" + text + "\n" + _END + rest.split(_END)[1]
