"""A loaded node, with and without viewers of its page: a call's CPU with twenty of them, next to one without any.

Calls come one after another from one client; the node's CPU time is read from /proc before and after each stretch. The
stretches alternate, so that a machine that becomes slower does not count for one side. A viewer is an open stream, read
as a browser would; what it asks for at its start is measured apart.

    scripts/soak viewers [--viewers N] [--calls N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
from pathlib import Path

import httpx

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """The CPU seconds of a process, those of its ended children included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * TICK_S


class Viewer:
    """One page: what it asks for at its start, and its stream."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.records = self.resets = self.skipped = 0
        self._url, self._headers = url, headers
        self._is_over = threading.Event()
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def wait_open(self) -> None:
        """Waits for `hello`."""
        assert self._is_open.wait(60)

    def _look(self) -> None:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=60, verify=False) as client:
            for path in ("/", "/page/v1/now", "/page/v1/series", "/page/v1/capabilities", "/page/v1/traces"):
                client.get(path)
            with client.stream("GET", "/page/v1/events") as response:
                kind = ""
                for line in response.iter_lines():
                    if line.startswith("event: "):
                        kind = line[7:]
                    elif line.startswith("data: "):
                        self._count(kind, line[6:])
                    if self._is_over.is_set():
                        return

    def _count(self, kind: str, data: str) -> None:
        self._is_open.set()
        self.resets += kind == "reset"
        if kind in ("traces", "logs"):
            self.records += data.count('"seq":')
        elif kind == "skipped":
            self.skipped += json.loads(data)["count"]

    def end(self) -> None:
        """Closes the stream with its next event."""
        self._is_over.set()
        self._thread.join(60)


def stretch(node, client: httpx.Client, calls: int) -> float:
    """Returns the node's CPU milliseconds a call."""
    before = cpu_s(node.process.pid)
    for number in range(calls):
        assert node.echo(f"call {number}", client).status_code == 200
    return (cpu_s(node.process.pid) - before) / calls * 1_000


def measured(node, viewers: int, calls: int, rounds: int) -> dict:
    """Returns the figures of alternating stretches."""
    from hearthnet.transport.page.grants import Grants

    grants = Grants(node.data_dir)
    claimed = node.post("/page/v1/claim", json={"token": grants.offer()}, headers={"Origin": node.url})
    headers = {"X-HearthNet-Page": claimed.json()["secret"]}
    alone, beside, opening, looking = [], [], [], []
    with httpx.Client(verify=False) as client:
        stretch(node, client, calls)  # to warm up
        for _ in range(rounds):
            alone.append(stretch(node, client, calls))
            before = cpu_s(node.process.pid)
            looking = [Viewer(node.url, headers) for _ in range(viewers)]
            for viewer in looking:
                viewer.wait_open()
            opening.append((cpu_s(node.process.pid) - before) / viewers * 1_000)
            beside.append(stretch(node, client, calls))
            for viewer in looking:
                viewer.end()
    ratios = [with_them / without for with_them, without in zip(beside, alone, strict=True)]
    return {
        "viewers": viewers,
        "calls": calls,
        "rounds": rounds,
        "alone_ms": round(statistics.median(alone), 4),
        "beside_ms": round(statistics.median(beside), 4),
        "opening_ms": round(statistics.median(opening), 1),
        "ratio": round(statistics.median(ratios), 4),
        "records_of_the_last_viewers": [viewer.records + viewer.skipped for viewer in looking],
        "resets": sum(viewer.resets for viewer in looking),
    }


def main() -> int:
    """Runs the soak, prints its figures, and fails if a call costs more than a twentieth more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--calls", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    sys.path[:0] = ["tests"]
    with tempfile.TemporaryDirectory(prefix="hearthnet-viewers-") as home:
        os.environ["HOME"] = home
        from support.nodes import end, make_node
        from support.ports import reserve_port

        node = make_node(Path(home), reserve_port())
        node.start()
        try:
            found = measured(node, wanted.viewers, wanted.calls, wanted.rounds)
        finally:
            end(node)
    print(json.dumps(found) if wanted.json else "\n".join(f"{name:<28} {value}" for name, value in found.items()))
    return 0 if found["ratio"] <= 1.05 else 1


if __name__ == "__main__":
    sys.exit(main())
