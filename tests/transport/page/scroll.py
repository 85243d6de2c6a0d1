"""`scripts/soak scroll`: a list of 10,000 traces full of hostile text, scrolled in a browser.

Prints the tasks of the browser over 50 ms while it scrolls, and the server's CPU time for the first view and the list;
exits with 1 when there is such a task, or the CPU exceeds 300 ms. On a busy machine neither is fair: run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from support.browser import chromium
from support.waiting import wait_until

LONG_MS = 50
MOST_CPU_MS = 300
COUNT = 10_000
WATCH = """() => {
    window.long = [];
    const note = list => long.push(...list.getEntries().map(one => one.duration));
    new PerformanceObserver(note).observe({ type: "longtask" });
}"""
SCROLL = """async steps => {
    const list = document.querySelector(".list");
    for (let at = 0; at < steps; at += 1) {
        list.scrollTop += 200;
        await new Promise(requestAnimationFrame);
    }
    return Number(list.getAttribute("aria-rowcount"));
}"""


def cpu_ms(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return 1_000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(link: str, pid: int, steps: int) -> dict[str, object]:
    """What one visit costs the server, and the browser while it scrolls."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        before = cpu_ms(pid)
        page.goto(link)
        page.wait_for_selector(".tile")
        page.evaluate("location.hash = '#traces'")
        page.wait_for_selector(".row[data-seq]")
        server_ms = cpu_ms(pid) - before
        page.evaluate(WATCH)
        rows = page.evaluate(SCROLL, steps)
        long = sorted(page.evaluate("long"), reverse=True)
    return {
        "server_cpu_ms": server_ms,
        "rows": rows,
        "steps": steps,
        "tasks_over_50_ms": len(long),
        "longest_ms": max(long, default=0),
    }


def main() -> int:
    """Records, serves, looks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000, help="frames to scroll, 200 pixels each")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HOME": home}
        program = Path(__file__).with_name("recording.py")
        subprocess.run([sys.executable, str(program), "hostile", str(COUNT)], env=environment, check=True)
        out = Path(home) / "page.out"
        with out.open("wb") as stream:
            command = [sys.executable, "-m", "hearthnet", "page"]
            page = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        wait_until(lambda: "#token=" in out.read_text(), out.read_text)
        try:
            found = measured(
                next(word for word in out.read_text().split() if "#token=" in word), page.pid, options.steps
            )
        finally:
            page.send_signal(signal.SIGINT)
            page.wait(60)
    print(json.dumps(found) if options.json else "\n".join(f"{name:18} {value}" for name, value in found.items()))
    return int(found["tasks_over_50_ms"] > 0 or found["server_cpu_ms"] > MOST_CPU_MS)


if __name__ == "__main__":
    sys.exit(main())
