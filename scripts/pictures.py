"""Takes the pictures of the page in docs/pictures, from a real node with real records.

The records are made within seconds, and their times are then spread over the last hour, so that the charts have one.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from support.browser import chromium, link
from support.nodes import end, make_node
from support.ports import reserve_port
from support.running_node import RunningNode

from hearthnet.config import load, resolve_paths
from hearthnet.observability import get_logger, telemetry, trace

__all__ = ["main"]

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "pictures"
MAX_BYTES: Final = 150_000  # of a picture: a repository keeps each version for ever
CALLS: Final = 1_500
HOUR_US: Final = 3_600_000_000
FAILING_SHARE: Final = 0.12  # of the hour, its end
TRACE: Final = "document.querySelector('.row[data-seq].failed').click()"

log = get_logger("services.llm")
dice = random.Random(5)


def chat(*, is_failing: bool) -> None:
    """A call of a language model, which may time out."""
    with trace.new_trace("llm.chat"):
        with trace.span("authorize"), trace.span("validate"):
            pass
        with trace.span("handle", model="tiny") as handle:
            with trace.span("connect", backend="ollama"):
                time.sleep(0.001)
                if is_failing:
                    log.warning("connection refused, trying again", extra={"attempt": 1, "backend": "ollama"})
            with trace.span("generate", model="tiny", max_tokens=256):
                with trace.span("first token"):
                    time.sleep(0.003)
                time.sleep(0.05 if is_failing else 0.008 * dice.lognormvariate(0, 0.4))
                if is_failing:
                    log.error("no answer within the time limit", extra={"timeout_s": 8, "backend": "ollama"})
                    raise TimeoutError("no answer within the time limit")
            handle.extras["tokens"] = dice.randint(20, 250)


def search() -> None:
    """A search among documents."""
    with trace.new_trace("rag.query"):
        with trace.span("embed", dimensions=384):
            time.sleep(0.001)
        with trace.span("search", k=5):
            time.sleep(0.002 * dice.lognormvariate(0, 0.4))


def embed() -> None:
    """The cheapest of the three."""
    with trace.new_trace("embed.text"), trace.span("embed", dimensions=384):
        time.sleep(0.0005)


def record(node: RunningNode) -> None:
    """Records an hour of calls, of which the last ones of the model fail."""
    with telemetry.open():
        for number in range(CALLS):
            is_failing = number > CALLS * (1 - FAILING_SHARE) and dice.random() < 0.6
            kind = dice.choice([lambda failing=is_failing: chat(is_failing=failing), search, embed, embed])
            with contextlib.suppress(TimeoutError):
                kind()
    with contextlib.closing(sqlite3.connect(node.data_dir / "telemetry.db")) as connection:
        spread(connection)
        connection.commit()


def spread(connection: sqlite3.Connection) -> None:
    """Moves the records so that they fill an hour; the log records of a trace keep their distance to it."""
    first, last = connection.execute("SELECT min(started_us), max(started_us) FROM traces").fetchone()
    scale, now = HOUR_US / max(1, last - first), time.time_ns() // 1_000
    rows = connection.execute("SELECT trace_id, started_us FROM traces").fetchall()
    moved = [(round(now - (last - started) * scale) - started, trace_id) for trace_id, started in rows]
    connection.executemany("UPDATE logs SET ts_us = ts_us + ? WHERE trace_id = ?", moved)
    connection.executemany("UPDATE traces SET started_us = started_us + ? WHERE trace_id = ?", moved)
    connection.execute("UPDATE runs SET started_us = ?", (now - HOUR_US - 120_000_000,))


def shoot(page: Any, name: str, width: int, height: int, scheme: str = "light") -> None:
    """Takes one picture.

    Raises:
        SystemExit: raised when it is larger than a picture may be.
    """
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(1_000)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path.relative_to(FOLDER.parent.parent)} {size:,} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"{name} is larger than {MAX_BYTES:,} bytes")


def take(node: RunningNode) -> None:
    """Takes all pictures of a running node."""
    calls = [
        subprocess.Popen(
            [sys.executable, "-m", "hearthnet", "call", "experimental.echo", "--body", body], stdout=subprocess.DEVNULL
        )
        for body in ['{"input": {"text": "x", "delay_ms": 20000}}'] * 2
    ]
    with chromium() as browser:
        page = browser.new_page(device_scale_factor=1)
        page.goto(link(node))
        page.wait_for_selector(".flights td")
        shoot(page, "now", 1280, 860)
        page.evaluate("location.hash = '#traces?q=cap%3Allm.chat'")
        page.wait_for_selector(".row[data-seq].failed")
        page.evaluate(TRACE)
        page.wait_for_selector(".draw-row")
        shoot(page, "trace", 1280, 620)
        shoot(page, "narrow", 400, 760, "dark")
    for call in calls:
        call.terminate()
        call.wait()


def main() -> None:
    """Starts the node, takes the pictures, ends the node."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        os.environ["HOME"] = home
        node = make_node(Path(home), reserve_port())
        assert resolve_paths(load()).observability.data_dir == node.data_dir
        record(node)
        node.start()
        try:
            take(node)
        finally:
            end(node)


if __name__ == "__main__":
    main()
