"""A store with a story: five runs of a node in three days and a cron job beside it, equal at every making, of any size.

The cookbook of queries shows what it answers from a small one; its time is measured on a full one. Its rows go through
the statements of the store's own writer. Times, ids and durations come from a generator with a fixed seed.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.records import count_rows
from hearthnet.constants import LIBRARY_ROLE, NODE_ROLE
from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.stored import LogRecord, TraceRecord
from hearthnet.observability.store import rows

__all__ = ["LOGS", "NOW", "TRACES", "make_store"]

NOW: Final = "2026-05-26T09:00:00Z"  # when the story is told
TRACES: Final = 800  # of the cookbook's store
LOGS: Final = 200
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SECOND_US: Final = 1_000_000
_CALLERS: Final = ("ed25519:7QK2-hall", "ed25519:M3XD-kitchen", "ed25519:9ZRW-phone")
_MODELS: Final = (("qwen2.5-7b", "desk", 31.0), ("llama-3.2-3b", "attic", 58.0))
_TRACEBACK: Final = (
    "Traceback (most recent call last):\n"
    '  File "services/notes.py", in search\n    score = hits / total\nZeroDivisionError: division by zero'
)


@dataclass(frozen=True, slots=True)
class _Life:
    """One run of the node, and how much slower than usual its models are."""

    run_id: str
    version: str
    pid: int
    boot_id: str
    started_us: int
    ended_us: int | None
    reason: str | None
    slowness: float = 1.0


def _us(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1e6)


def _ulid(us: int, chance: random.Random) -> str:
    number = (us // 1_000 << 80) | chance.getrandbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def _lives(chance: random.Random) -> list[_Life]:
    told = (
        ("0.3.0", 811, "b1", "2026-05-24T08:00:00Z", "2026-05-24T22:00:00Z", rows.CLEAN, 1.0),
        ("0.3.1", 1204, "b1", "2026-05-25T07:30:00Z", "2026-05-25T23:00:00Z", rows.CLEAN, 1.0),
        ("0.3.1", 640, "b2", "2026-05-26T06:00:00Z", "2026-05-26T07:12:40Z", rows.UNCLEAN, 1.1),
        ("0.3.1", 702, "b2", "2026-05-26T07:12:45Z", "2026-05-26T07:58:00Z", rows.UNCLEAN, 1.6),
        ("0.3.1", 733, "b2", "2026-05-26T07:58:10Z", None, None, 1.7),
    )
    return [
        _Life(
            _ulid(_us(begin), chance), version, pid, boot, _us(begin), None if end is None else _us(end), reason, slow
        )
        for version, pid, boot, begin, end, reason, slow in told
    ]


def make_store(path: Path, traces: int = TRACES, logs: int = LOGS) -> None:
    """Makes a database of so many traces and log records at `path`; the newest is a minute before `NOW`."""
    chance = random.Random(20260526)  # noqa: S311  # a story, no secret
    connection = open_database(path, TELEMETRY)
    try:
        lives = _lives(chance)
        connection.execute("BEGIN IMMEDIATE")
        for life in lives:
            run = (life.run_id, "ed25519:HN-cellar", life.version, life.pid, life.boot_id, life.started_us)
            connection.execute(rows.INSERT_RUN, (*run, "hearthnet", NODE_ROLE))
            connection.execute(rows.END_RUN, (life.ended_us, life.reason, life.run_id))
        _insert(connection, _numbered(_moments(lives, traces, logs, chance), chance))
        _insert_jobs(connection, chance)
        count_rows(connection)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _insert_jobs(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Inserts the runs of a cron job that recorded nothing worth keeping; after the rest, which stays as it was."""
    for pid, boot, begin in ((911, "b1", "2026-05-25T03:00:00Z"), (690, "b2", "2026-05-26T07:57:00Z")):
        run_id, started_us = _ulid(_us(begin), chance), _us(begin)
        connection.execute(rows.INSERT_RUN, (run_id, None, "0.3.1", pid, boot, started_us, "backup.py", LIBRARY_ROLE))
        connection.execute(rows.END_RUN, (started_us + 40 * _SECOND_US, rows.CLEAN, run_id))


def _insert(connection: sqlite3.Connection, records: Iterator[Any]) -> None:
    for record in records:
        if isinstance(record, TraceRecord):
            connection.execute(rows.TRACES.insert, record)
        elif isinstance(record, LogRecord):
            connection.execute(rows.LOGS.insert, record)
        else:
            connection.execute(rows.INSERT_GAP, record)


def _moments(lives: list[_Life], traces: int, logs: int, chance: random.Random) -> list[tuple[int, str, _Life]]:
    """Returns when something happens, of what kind, in which life; in the order of time."""
    ends = [life.ended_us or _us(NOW) - 60 * _SECOND_US for life in lives]
    weights = [2, 3, 2, 1, 2]
    found = []
    for kind, count in (("trace", traces), ("log", logs)):
        for place in chance.choices(range(len(lives)), weights, k=count):
            # The last seconds of a life belong to what did not survive it.
            last_us = ends[place] - 5 * _SECOND_US
            found.append((chance.randint(lives[place].started_us, last_us), kind, lives[place]))
    found.append((lives[2].started_us + 4_000 * _SECOND_US, "full", lives[2]))
    for life in (lives[2], lives[3]):
        found += [((life.ended_us or 0) - 2 * _SECOND_US, "died", life), ((life.ended_us or 0), "killed", life)]
    return sorted(found, key=lambda moment: moment[0])


def _numbered(moments: list[tuple[int, str, _Life]], chance: random.Random) -> Iterator[Any]:
    """Yields the records of the moments; a call that failed leaves a log record behind it."""
    seq = 0
    for at_us, kind, life in moments:
        seq += 1
        if kind == "trace":
            trace = _chat(seq, at_us, life, chance) if chance.random() < 0.4 else _simple(seq, at_us, life, chance)
            yield trace
            if trace.error is not None:
                seq += 1
                yield _complaint(seq, trace)
        elif kind == "log":
            yield _note(seq, at_us, life, chance)
        elif kind == "died":
            yield _interrupted(seq, at_us, life, chance)
        else:
            what = ("log", "buffer_full", 150) if kind == "full" else ("trace", "killed", 12)
            yield (seq, at_us, *what, life.run_id)


def _trace(seq: int, at_us: int, life: _Life, chance: random.Random, capability: str, **facts: Any) -> TraceRecord:
    error = facts.get("error")
    duration_ms = round(facts["duration_ms"], 3)
    extras = {"caller": chance.choices(_CALLERS, (6, 3, 1))[0]}
    return TraceRecord(
        seq, life.run_id, seq, _ulid(at_us, chance), None, capability, "1.0", at_us, (at_us - life.started_us) * 1_000,
        duration_ms, facts.get("result", "ok"), error, int(error is not None or duration_ms >= 5_000),
        orjson.dumps(facts["spans"]), orjson.dumps(extras),
    )  # fmt: skip


class _Steps:
    """Spans of one trace, one after the other, or within another."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.spans: list[dict[str, Any]] = []
        self.at_ms = 0.0

    def add(self, name: str, ms: float, parent: str | None = None, status: str = "ok", **extras: Any) -> str:
        """Adds a span that begins now; returns its id."""
        span_id = f"{self._chance.getrandbits(64):016x}"
        self.spans.append(
            {
                "id": span_id, "parent": parent, "name": name, "offset_ms": round(self.at_ms, 3),
                "duration_ms": round(ms, 3), "status": status, "extras": extras,
            }
        )  # fmt: skip
        return span_id

    def admit(self) -> None:
        """Adds what every call begins with."""
        for name in ("find", "authorize", "validate", "admit"):
            ms = self._chance.uniform(0.01, 0.05)
            self.add(name, ms)
            self.at_ms += ms


def _simple(seq: int, at_us: int, life: _Life, chance: random.Random) -> TraceRecord:
    steps = _Steps(chance)
    steps.admit()
    is_search = chance.random() < 0.35
    ms = chance.lognormvariate(2.5, 0.6) if is_search else chance.uniform(0.2, 2.0)
    broken = is_search and chance.random() < 0.04
    steps.add("handle", ms, status="error" if broken else "ok", timeout_s=30)
    facts: dict[str, Any] = {"duration_ms": steps.at_ms + ms, "spans": steps.spans}
    if broken:
        facts |= {"result": "internal_error", "error": "ZeroDivisionError: division by zero"}
    return _trace(seq, at_us, life, chance, "notes.search" if is_search else "experimental.echo", **facts)


def _chat(seq: int, at_us: int, life: _Life, chance: random.Random) -> TraceRecord:
    model, backend, speed = chance.choice(_MODELS)
    steps = _Steps(chance)
    steps.admit()
    queue_ms = chance.expovariate(1 / 120) * life.slowness if chance.random() < 0.3 else 0.02
    tokens, per_s = chance.randint(20, 220), speed / life.slowness * chance.uniform(0.9, 1.1)
    ttft_ms = chance.uniform(150, 400) * life.slowness
    down = chance.random() < (0.12 if life.slowness > 1.5 else 0.01)
    generate_ms = 2_000.0 if down else ttft_ms + tokens / per_s * 1_000
    handle = steps.add("handle", queue_ms + generate_ms, status="error" if down else "ok", timeout_s=300)
    steps.add("queue", queue_ms, handle, backend=backend)
    steps.at_ms += queue_ms
    said = {"backend": backend, "model": model, "stream": True, "queue_ms": round(queue_ms, 3)}
    if not down:
        said |= {"ttft_ms": round(ttft_ms, 1), "tokens_out": tokens, "tokens_per_s": round(per_s, 1), "outcome": "ok"}
    steps.add("generate", generate_ms, handle, "error" if down else "ok", **said)
    facts: dict[str, Any] = {"duration_ms": steps.at_ms + generate_ms, "spans": steps.spans}
    if down:
        facts |= {"result": "partition", "error": f"WireError: the backend {backend} cannot be reached"}
    return _trace(seq, at_us, life, chance, "llm.chat", **facts)


def _interrupted(seq: int, at_us: int, life: _Life, chance: random.Random) -> TraceRecord:
    """Returns what a start makes of a call that a black box has as in flight: no more is known of it."""
    steps = _Steps(chance)
    steps.at_ms = 0.2
    steps.add("generate", 1_999.8, status="open")
    made = _trace(seq, at_us, life, chance, "llm.chat", duration_ms=2_000.0, spans=steps.spans, result="interrupted")
    return made._replace(version=None, notable=1, extras=b"{}")


def _complaint(seq: int, trace: TraceRecord) -> LogRecord:
    failed_us = trace.started_us + int(trace.duration_ms * 1_000)
    is_model = trace.capability == "llm.chat"
    logger, level = ("hearthnet.services.llm", "warning") if is_model else ("hearthnet.bus.bus", "error")
    msg = "language model backend failed" if is_model else "capability failed"
    extras = {"kind": "unreachable", "chunks": 0} if is_model else {"capability": trace.capability}
    return LogRecord(
        seq, trace.run_id, seq, failed_us, level, logger, msg, trace.trace_id, None, 1, 0, orjson.dumps(extras),
        None if is_model else _TRACEBACK,
    )  # fmt: skip


def _note(seq: int, at_us: int, life: _Life, chance: random.Random) -> LogRecord:
    logger, level, msg, repeats = chance.choice(
        (
            ("hearthnet.services.emergency", "info", "probe answered", 40),
            ("hearthnet.events.event_log", "info", "event appended", 0),
            ("hearthnet.transport.auth.signing", "warning", "signature refused", 2),
        )
    )
    extras = orjson.dumps({"number": chance.randint(1, 99)})
    held_back = chance.randint(0, repeats)
    return LogRecord(
        seq, life.run_id, seq, at_us, level, logger, msg, None, None, int(level == "warning"), held_back, extras, None
    )
