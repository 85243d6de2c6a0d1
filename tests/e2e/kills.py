"""Kills a recording process at random moments and counts the surviving records. The soak is this file run by itself.

The worker keeps its truth in a file of its own, mapped into memory like the black box: per thread, how many traces have
ended, whether one is in flight, its trace id, and its open span. A kill may fall between an act and its note in the
truth, so each number has a lower and an upper bound: noted before the act, and after it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support import forkserver

TRACE_RING_BUFFER = 10_000
THREADS = 3
# per thread: traces begun to end, traces ended, in flight (0 no, 1 changing, 2 yes), span (0 none, 1 changing, 2 open),
# trace id
SLOT = struct.Struct("<QQBB26s")
STATE, SPAN, TRACE_ID = 16, 17, 18
PACE_S = 0.0003  # between two traces of a thread: three threads make several thousand a second


def work(data_dir: Path, truth_path: Path, seed: int) -> None:
    """Records until killed."""
    from hearthnet.config import ObservabilityConfig
    from hearthnet.observability import telemetry

    with truth_path.open("r+b") as file:
        truth = mmap.mmap(file.fileno(), THREADS * SLOT.size)
    config = ObservabilityConfig(data_dir=data_dir, log_dir=data_dir / "logs")
    with telemetry.open(config) as t:
        assert t.error is None, t.error
        threads = [
            threading.Thread(target=record, args=(truth, number, random.Random(seed + number)))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        print("recording", flush=True)
        threads[0].join()


def record(truth: mmap.mmap, number: int, chance: random.Random) -> None:
    """Records numbered traces with nested spans in this thread."""
    from hearthnet.observability import trace

    pause = threading.Event()
    at = number * SLOT.size
    done = 0
    while True:
        truth[at + STATE] = 1
        current = trace.new_trace(f"kill.t{number}")
        current.extras["n"] = done
        truth[at + TRACE_ID : at + SLOT.size] = current.trace_id.encode()
        truth[at + STATE] = 2
        for _ in range(chance.randrange(3)):
            truth[at + SPAN] = 1
            with trace.span("outer", n=done):
                truth[at + SPAN] = 2
                pause.wait(PACE_S)
                truth[at + SPAN] = 1
            truth[at + SPAN] = 0
        if chance.random() < 0.01:
            current.fail("timeout")
        truth[at + STATE] = 1
        # Each a single store: a structure that is packed is cleared first, and a kill may fall in between.
        truth[at : at + 8] = (done + 1).to_bytes(8, "little")
        trace.detach()
        done += 1
        truth[at + 8 : at + 16] = done.to_bytes(8, "little")
        truth[at + STATE] = 0
        if chance.random() < 0.3:
            pause.wait(PACE_S)


@contextmanager
def worker(data_dir: Path, truth: Path, seed: int) -> Iterator[forkserver.Process]:
    """Starts a process and waits until it records."""
    from support import forkserver

    truth.write_bytes(bytes(THREADS * SLOT.size))
    arguments = [sys.executable, __file__, "--work", str(data_dir), str(truth), str(seed)]
    with forkserver.spawn(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "recording\n"
        yield process
        process.kill()


def kill_once(data_dir: Path, truth_path: Path, seed: int, within_s: float) -> dict[str, float]:
    """Runs a worker, kills it, reopens the store, and compares; returns the figures.

    Raises:
        AssertionError: raised when anything was lost, doubled or not listed.
    """
    from hearthnet.config import ObservabilityConfig
    from hearthnet.observability import telemetry

    before = stored(data_dir)
    with worker(data_dir, truth_path, seed) as process:
        threading.Event().wait(random.Random(seed).uniform(0, within_s))
        started = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    content = truth_path.read_bytes()
    truth = [SLOT.unpack_from(content, number * SLOT.size) for number in range(THREADS)]
    committed = stored(data_dir)
    opened_at = time.perf_counter()
    with telemetry.open(ObservabilityConfig(data_dir=data_dir, log_dir=data_dir / "logs")) as t:
        recovery_s = time.perf_counter() - opened_at
        assert t.error is None, t.error
        run_id = last_run(data_dir, but=t.run_id)
    figures = compare(data_dir, run_id, truth)
    figures["only_in_box"] = figures["recorded"] - max(0, committed - before)
    return {**figures, "recovery_s": recovery_s, "killed_s": time.monotonic() - started}


def compare(data_dir: Path, run_id: str, truth: list[tuple]) -> dict[str, float]:
    """Checks the rows of a run against the truth."""
    recorded = in_flight = 0
    with closing(sqlite3.connect(f"file:{data_dir / 'telemetry.db'}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*), count(DISTINCT seq) FROM traces").fetchone() == (
            (total := db.execute("SELECT count(*) FROM traces").fetchone()[0]),
            total,
        )
        assert db.execute("SELECT end_reason FROM runs WHERE run_id = ?", (run_id,)).fetchone() == ("unclean",)
        gaps = db.execute("SELECT kind, reason, count FROM gaps").fetchall()
        assert gaps == [], gaps
        for number, (most, least, state, span, trace_id) in enumerate(truth):
            rows = db.execute(
                "SELECT extras ->> 'n', notable FROM traces"
                " WHERE run_id = ? AND capability = ? AND result <> 'interrupted'"
                " ORDER BY seq",
                (run_id, f"kill.t{number}"),
            ).fetchall()
            # A full ring evicts the oldest ordinary ones, and keeps failures from before them.
            first = next((n for n, notable in rows if not notable), 0)
            assert first == 0 or total == TRACE_RING_BUFFER or rows[0][0] == 0, (first, total)
            newest = [n for n, _ in rows if n >= first]
            assert newest == list(range(first, first + len(newest)))
            assert least <= first + len(newest) <= most, (least, newest[-3:], most)
            recorded += len(rows)
            found = db.execute(
                "SELECT trace_id, spans ->> '$[0].name', spans ->> '$[0].status', duration_ms FROM traces"
                " WHERE run_id = ? AND capability = ? AND result = 'interrupted'",
                (run_id, f"kill.t{number}"),
            ).fetchall()
            check_in_flight(found, state, span, trace_id)
            in_flight += len(found)
    return {"recorded": recorded, "in_flight": in_flight, "lost": 0, "doubled": 0}


def check_in_flight(found: list[tuple], state: int, span: int, trace_id: bytes) -> None:
    """Checks the interrupted trace of a thread against what the thread had written down."""
    if state == 0:
        assert found == []
    elif state == 2:
        assert [row[0] for row in found] == [trace_id.decode()]
    assert len(found) <= 1
    for _, name, status, age_ms in found:
        assert age_ms >= 0
        assert (name, status) in {(None, None), ("outer", "open")}
        if state == 2 and span != 1:
            assert (name == "outer") == (span == 2)


def stored(data_dir: Path) -> int:
    """Returns the number of committed traces."""
    path = data_dir / "telemetry.db"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute("SELECT count(*) FROM traces").fetchone()[0]


def last_run(data_dir: Path, but: str) -> str:
    """Returns the newest run before this one."""
    with closing(sqlite3.connect(f"file:{data_dir / 'telemetry.db'}?mode=ro", uri=True)) as db:
        return db.execute("SELECT run_id FROM runs WHERE run_id <> ? ORDER BY rowid DESC LIMIT 1", (but,)).fetchone()[0]


def main() -> None:
    """Runs the soak: `count` kills, each in a folder of its own or all on one ring."""
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        return
    import tempfile

    parser = argparse.ArgumentParser(prog="scripts/soak kills", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many (200)")
    parser.add_argument("--within-s", type=float, default=2.0, help="each within so many seconds of recording (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    total: dict[str, list[float]] = {}
    for number in range(chosen.kills):
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            figures = kill_once(base / "data", base / "truth", chosen.seed + 1_000 * number, chosen.within_s)
        for name, value in figures.items():
            total.setdefault(name, []).append(value)
        print(f"\rkill {number + 1} of {chosen.kills}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    summary = {
        "kills": chosen.kills,
        "traces_recorded": sum(total["recorded"]),
        "traces_lost": sum(total["lost"]),
        "traces_doubled": sum(total["doubled"]),
        "traces_only_in_box_mean": sum(total["only_in_box"]) / chosen.kills,
        "traces_only_in_box_max": max(total["only_in_box"]),
        "in_flight_listed": sum(total["in_flight"]),
        "recovery_s_mean": sum(total["recovery_s"]) / chosen.kills,
        "recovery_s_max": max(total["recovery_s"]),
    }
    if chosen.json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name:<28} {value:,.3f}" if isinstance(value, float) else f"{name:<28} {value:,}")


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent.parent)]
    main()
