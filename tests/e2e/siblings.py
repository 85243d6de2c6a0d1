"""Programs, workers and a node share one store, and random ones are killed. The soak is this file run by itself.

A worker writes what it did into a file of its own, the truth, one appended line each, before it goes on: `begun` and a
trace id, `ending`, and `done` with the run, the trace id, the result and the time once `detach` has returned. Whatever
is `done` must be in SQL at the end, once, unless the ring has replaced it or a gap counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hearthnet.constants import MAX_RUN_ROWS

if TYPE_CHECKING:
    from support import forkserver

WORKERS = 4
PROGRAMS_A_SECOND = 3
CALLS_A_SECOND = 4
TRACES_A_SECOND = 10  # of each worker
INTERVAL_S = 0.2  # between two commits
LATE_S = 2.0  # two commit intervals, and what a busy machine takes; a row that is later is late
SAMPLE_S = 0.5
RING = 10_000
RECOVERED_WITHIN_US = 70_000_000  # a box is recovered within a minute of its end: so much younger it may seem
OF_THE_KILLED, OF_THE_ORDERLY = {"killed"}, {"box_full"}  # reasons of gaps
README = """
from hearthnet.config import load, resolve_paths
from hearthnet.observability import get_logger, telemetry, trace

log = get_logger(__name__)
config = resolve_paths(load())

with telemetry.open(config.observability):
    with trace.new_trace("experimental.work"), trace.span("step", size=3):
        log.info("working", extra={"step": 1})
    print(trace.get_recent(1))
"""


class Done(NamedTuple):
    """A trace that was recorded, says its truth."""

    run_id: str
    trace_id: str
    result: str
    at_us: int


# --- what is killed


def work(truth: Path, chance: random.Random, traces: int | None) -> None:
    """Records until SIGTERM, or so many traces; then perhaps fails, if there were so many."""
    from hearthnet.config import load, resolve_paths
    from hearthnet.observability import get_logger, telemetry, trace

    log, pause = get_logger("soak"), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: pause.set())
    fd = os.open(truth, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(*words: object) -> None:
        os.write(fd, (" ".join(map(str, words)) + "\n").encode())

    with telemetry.open(resolve_paths(load()).observability):
        while not pause.wait(chance.uniform(0, 2 / TRACES_A_SECOND)) and traces != 0:
            traces = None if traces is None else traces - 1
            made = trace.new_trace("soak.work")
            say("begun", made.trace_id)
            with trace.span("step"):
                pause.wait(chance.choice([0, 0.002]))
            if chance.random() < 0.05:
                made.fail("timeout")
                log.error("failing", extra={"chance": chance.random()})
            say("ending")
            trace.detach()
            say("done", made.run_id, made.trace_id, made.result, time.time_ns() // 1_000)
            log.info("recorded")
        if traces == 0 and chance.random() < 0.3:
            raise SystemExit("as it happens")


@dataclass
class Life:
    """One process, and what became of it."""

    process: forkserver.Process
    truth: Path | None = None  # None: README's program, which prints its trace
    is_killed: bool = False
    printed: str = ""
    began_us: int = field(default_factory=lambda: time.time_ns() // 1_000)

    def kill(self) -> None:
        """Kills it, unless it has ended."""
        self.is_killed = self.process.poll() is None
        self.process.kill()

    def done(self) -> list[Done]:
        """What it recorded."""
        lines = [line.split() for line in self._lines()]
        return [Done(*words[1:4], int(words[4])) for words in lines if words[0] == "done"]

    def in_flight(self) -> str | None:
        """The trace that it was certainly in when it ended."""
        last = self._lines()[-1:]
        return last[0].split()[1] if last and last[0].startswith("begun") else None

    def _lines(self) -> list[str]:
        if self.truth is None or not self.truth.exists():
            return []
        return [line for line in self.truth.read_text().split("\n")[:-1] if line]


@dataclass
class Soak:
    """A node and its siblings in one home, under load until `run` returns.

    Attributes:
        lags_s: how long the oldest trace that SQL lacked had been recorded, at each look at a living worker.
        bytes_most: on disk.
    """

    folder: Path
    node: object
    chance: random.Random
    workers: list[Life] = field(default_factory=list)
    programs: list[Life] = field(default_factory=list)
    ended: list[Life] = field(default_factory=list)
    calls: list[Done] = field(default_factory=list)
    node_kills: int = 0
    lags_s: list[float] = field(default_factory=list)
    bytes_most: int = 0

    def run(self, seconds: float, kills: int) -> None:
        """Keeps all of them busy for so long, with so many kills at random moments; then ends them in order."""
        moments = sorted(self.chance.uniform(0, seconds) for _ in range(kills))
        stop = threading.Event()
        calling = threading.Thread(target=self._call, args=(stop,))
        calling.start()
        self.workers = [self._start_worker() for _ in range(WORKERS)]
        try:
            while not all(life.done() for life in self.workers) and not any(
                life.process.poll() for life in self.workers
            ):
                stop.wait(0.02)
            began = time.monotonic()
            next_program, next_sample = 0.0, SAMPLE_S
            while (now := time.monotonic() - began) < seconds:
                if now >= next_program:
                    self._start_program()
                    next_program += 1 / PROGRAMS_A_SECOND
                if now >= next_sample:
                    self._sample()
                    next_sample = now + SAMPLE_S
                while moments and moments[0] <= now:
                    moments.pop(0)
                    self._kill_one()
                stop.wait(0.02)
        finally:
            stop.set()
            calling.join()
            self._end()

    def _start_worker(self) -> Life:
        return self._start("--work")

    def _start(self, *arguments: str) -> Life:
        from support import forkserver

        truth = self.folder / f"truth.{len(self.ended) + len(self.workers) + len(self.programs)}.{time.time_ns()}"
        command = [sys.executable, __file__, *arguments, str(truth), str(self.chance.randrange(1 << 30))]
        return Life(forkserver.spawn(command, stderr=subprocess.DEVNULL, text=True), truth)

    def _start_program(self) -> None:
        from support import forkserver

        for life in [life for life in self.programs if life.process.poll() is not None]:
            self._note_end(life)
            self.programs.remove(life)
        if len(self.programs) >= 2 * PROGRAMS_A_SECOND:  # this machine starts no more than that
            return
        if self.chance.random() < 0.5:
            process = forkserver.spawn([sys.executable, "-c", README], stdout=subprocess.PIPE, text=True)
            self.programs.append(Life(process))
        else:
            self.programs.append(self._start("--program"))

    def _note_end(self, life: Life) -> None:
        life.printed, _ = life.process.communicate()
        life.is_killed = life.is_killed or life.process.returncode < 0  # at its start, by the end of the soak
        self.ended.append(life)

    def _kill_one(self) -> None:
        kind = self.chance.choices(("worker", "program", "node"), (6, 3, 1))[0]
        if kind == "worker":
            place = self.chance.randrange(WORKERS)
            self.workers[place].kill()
            self._note_end(self.workers[place])
            self.workers[place] = self._start_worker()
        elif kind == "program" and self.programs:
            self.chance.choice(self.programs).kill()
        elif kind == "node":
            self.node_kills += 1
            self.node.process.send_signal(signal.SIGKILL)
            self.node.process.wait()
            self.node.start()

    def _call(self, stop: threading.Event) -> None:
        """Calls the node; what it answers it has recorded, under the id of the answer."""
        import httpx

        number = 0
        with httpx.Client(verify=False) as client:
            while not stop.wait(1 / CALLS_A_SECOND):
                number += 1
                wanted = {"fail": "timeout"} if number % 10 == 0 else {}
                with suppress(httpx.HTTPError):  # killed at this moment
                    trace_id = self.node.echo(client=client, **wanted).headers["X-HearthNet-Request-Id"]
                    result = "timeout" if "fail" in wanted else "ok"
                    self.calls.append(Done("", trace_id, result, time.time_ns() // 1_000))

    def _sample(self) -> None:
        """Looks how late the rows of the living are, and how many bytes there are."""
        self.bytes_most = max(self.bytes_most, bytes_of(self.node))
        with closing(read(self.node)) as db:
            for life in self.workers:
                missing = [done for done in life.done()[-50:] if not times_in(db, done)]
                self.lags_s += [time.time() - done.at_us / 1e6 for done in missing[:1]] or [0.0]

    def _end(self) -> None:
        for life in self.workers:
            life.process.terminate()
        for life in [*self.workers, *self.programs]:
            self._note_end(life)
        if self.node.process.poll() is None:
            self.node.stop()


# --- the judgement


def read(node) -> sqlite3.Connection:
    """A connection as that of any program that looks at the store."""
    return sqlite3.connect(f"file:{node.data_dir / 'telemetry.db'}?mode=ro", uri=True, timeout=5)


def bytes_of(node) -> int:
    """All that telemetry has on disk."""
    from hearthnet.observability.store.budget import disk_bytes

    return sum(disk_bytes(node.data_dir, node.log_dir).values())


def times_in(db: sqlite3.Connection, done: Done) -> int:
    """How many rows a trace has."""
    sql = "SELECT count(*) FROM traces WHERE trace_id = ? AND result = ? AND (run_id = ? OR ? = '')"
    return db.execute(sql, (done.trace_id, done.result, done.run_id, done.run_id)).fetchone()[0]


def breaches(soak: Soak) -> Iterator[str]:
    """What is not as promised, after the store was opened once more."""
    with closing(read(soak.node)) as db:
        yield from of_rows(db)
        yield from of_traces(db, soak)
        yield from of_runs(db, soak)
    for path in soak.node.data_dir.glob("*.box*"):
        yield f"a box is left over: {path.name}"
    if soak.bytes_most > 256_000_000:
        yield f"{soak.bytes_most:,} bytes on disk"
    if (late := max(soak.lags_s, default=0.0)) > LATE_S:
        yield f"a row was {late:.1f} s late"


def of_rows(db: sqlite3.Connection) -> Iterator[str]:
    """What any store must be."""
    if (found := db.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
        yield f"the database is damaged: {found}"
    for table in ("traces", "logs"):
        sql = f"SELECT count(*) - count(DISTINCT run_id || ' ' || number), count(*) - count(DISTINCT seq) FROM {table}"
        if (doubles := db.execute(sql).fetchone()) != (0, 0):
            yield f"{table}: doubles, and seqs twice: {doubles}"


def of_traces(db: sqlite3.Connection, soak: Soak) -> Iterator[str]:
    """Each trace that was recorded must be there once, be replaced by the ring, or be counted."""
    missing: dict[tuple[str, bool], int] = Counter()
    oldest = oldest_of_full_classes(db)
    recorded = [(done, life.is_killed) for life in soak.ended for done in life.done()]
    for done, is_killed in [*recorded, *((done, soak.node_kills > 0) for done in soak.calls)]:
        rows, notable = times_in(db, done), done.result != "ok"
        if rows > 1:
            yield f"{done} is there {rows} times"
        elif not rows and notable:
            yield f"a failure is not there: {done}"
        elif not rows and done.at_us > oldest.get(notable, 0):
            missing[done.run_id, is_killed] += 1
    yield from of_gaps(db, missing)
    for trace_id in filter(None, (life.in_flight() for life in soak.ended if life.is_killed)):
        sql = "SELECT count(*) FROM traces JOIN runs USING (run_id) WHERE trace_id = ? AND result = 'interrupted'"
        if db.execute(sql, (trace_id,)).fetchone() != (1,):
            yield f"{trace_id} was in flight, and is not listed"


def of_gaps(db: sqlite3.Connection, missing: dict[tuple[str, bool], int]) -> Iterator[str]:
    """What is missing of a run must be counted, by the reason that fits its end."""
    gaps = defaultdict(Counter)
    for run_id, reason, count in db.execute("SELECT run_id, reason, count FROM gaps WHERE kind = 'trace'"):
        gaps[run_id][reason] += count
    for (run_id, is_killed), count in missing.items():
        known = gaps.get(run_id, Counter())
        if known.total() < count or known.keys() - (OF_THE_KILLED if is_killed else OF_THE_ORDERLY):
            yield f"run {run_id or 'of the node'} lacks {count} traces, its gaps are {dict(known)}"


def oldest_of_full_classes(db: sqlite3.Connection) -> dict[bool, int]:
    """Until when the ring may have replaced rows, by class."""
    if db.execute("SELECT count(*) FROM traces").fetchone()[0] < RING:
        return {}
    sql = "SELECT notable, min(started_us) FROM traces GROUP BY notable"
    return {bool(notable): oldest + RECOVERED_WITHIN_US for notable, oldest in db.execute(sql)}


def story_of(db: sqlite3.Connection, life: Life) -> str:
    """What is known of a process, to find the fault."""
    cursor = db.execute("SELECT * FROM runs WHERE pid = ?", (life.process.pid,))
    names = [column[0] for column in cursor.description]
    told = [{name: value for name, value in zip(names, row, strict=True) if name != "vitals"} for row in cursor]
    return f"began {life.began_us}, returned {life.process.returncode}, last {life._lines()[-1:]}, {told}"


def of_runs(db: sqlite3.Connection, soak: Soak) -> Iterator[str]:
    """A run that ended in order is clean; a killed one is not; README's program has its row.

    Unless newer ones have replaced its row: of programs a thousand runs are kept, of traces a ring.
    """
    kept, oldest_us = db.execute("SELECT count(*), min(started_us) FROM runs WHERE role = 'library'").fetchone()
    full_us = oldest_us if kept >= MAX_RUN_ROWS else 0
    ring_us = oldest_of_full_classes(db).get(False, 0)
    for life in soak.ended:
        ends = db.execute("SELECT end_reason FROM runs WHERE pid = ? ORDER BY rowid", (life.process.pid,)).fetchall()
        if not ends and life.began_us < full_us:
            continue
        if not life.is_killed and ends != [("clean",)]:
            yield f"process {life.process.pid} ended in order, its runs say {ends}: {story_of(db, life)}"
        if life.is_killed and life.in_flight() and ends != [("unclean",)]:
            yield f"process {life.process.pid} was killed, its runs say {ends}"
        if life.truth is None and not life.is_killed and life.began_us > ring_us:
            found = re.search(r"<Trace (\S+) experimental.work ok>", life.printed)
            if not found or not times_in(db, Done("", found[1], "ok", 0)):
                yield f"process {life.process.pid} printed {life.printed!r}, which is not in SQL"
    if (open_runs := db.execute("SELECT count(*) FROM runs WHERE ended_us IS NULL").fetchone()[0]) != 0:
        yield f"{open_runs} runs have no end"


def soak_all(folder: Path, node, seconds: float, kills: int, seed: int) -> tuple[Soak, dict[str, object]]:
    """Runs the soak, the truths in a folder; returns it with its figures and breaches."""
    from hearthnet.config import load, resolve_paths
    from hearthnet.observability import telemetry

    soak = Soak(folder, node, random.Random(seed))
    soak.run(seconds, kills)
    with telemetry.open(resolve_paths(load()).observability) as t:
        problem = t.error
    found = ([f"the store cannot be opened: {problem}"] if problem else []) + list(breaches(soak))
    killed = Counter("worker" if life.truth else "program" for life in soak.ended if life.is_killed)
    with closing(read(soak.node)) as db:
        ((rows, runs),) = db.execute("SELECT (SELECT count(*) FROM traces), (SELECT count(*) FROM runs)").fetchall()
        lost = db.execute("SELECT ifnull(sum(count), 0) FROM gaps").fetchone()[0]
    lags = sorted(soak.lags_s) or [0.0]
    return soak, {
        "seconds": seconds, "processes": len(soak.ended), "killed": sum(killed.values()), "node_kills": soak.node_kills,
        "traces_recorded": sum(len(life.done()) for life in soak.ended) + len(soak.calls),
        "traces_in_sql": rows, "runs_in_sql": runs, "counted_as_lost": lost,
        "lag_s_median": lags[len(lags) // 2], "lag_s_p99": lags[len(lags) * 99 // 100], "lag_s_max": lags[-1],
        "bytes_most": soak.bytes_most, "breaches": found,
    }  # fmt: skip


def start_node(folder: Path):
    """A running node that commits often, and whose home its siblings share."""
    import overload

    from hearthnet.config import load, save

    node = overload.start_node(folder)
    node.stop()
    config = load()
    often = config.observability.model_copy(update={"flush_interval_s": INTERVAL_S})
    save(config.model_copy(update={"observability": often}))
    node.start()
    return node


def main() -> int:
    """The soak: a node, four workers and short programs write one store, and random ones of them are killed."""
    if sys.argv[1:2] in (["--work"], ["--program"]):
        chance = random.Random(int(sys.argv[3]))
        work(Path(sys.argv[2]), chance, None if sys.argv[1] == "--work" else chance.randrange(1, 6))
        return 0
    parser = argparse.ArgumentParser(prog="scripts/soak siblings", description=main.__doc__)
    parser.add_argument("--for", dest="seconds", type=float, default=120.0, help="seconds (120)")
    parser.add_argument("--kills", type=int, default=40, help="how many (40)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = start_node(Path(folder))
        _, figures = soak_all(Path(folder), node, chosen.seconds, chosen.kills, chosen.seed)
    found = figures["breaches"]
    if chosen.json:
        print(json.dumps(figures))
        return 1 if found else 0
    for name, value in figures.items():
        if name != "breaches":
            print(f"{name:<18} {value:,.3f}" if isinstance(value, float) else f"{name:<18} {value:,}")
    for breach in found:
        print(f"breach: {breach}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    sys.exit(main())
