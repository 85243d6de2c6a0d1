"""A telemetry.db as a program with an earlier version of the schema left it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from hearthnet.database import TELEMETRY, migrations_dir

__all__ = ["FILES", "OLDER", "WRITERS", "old_store"]

FILES = {int(file.name[:4]): file for file in sorted((migrations_dir() / TELEMETRY.name).glob("*.sql"))}
WRITERS = 7  # the version from which each process commits for itself
OLDER = [version for version in FILES if version < WRITERS]
_TRACE = (
    "INSERT INTO traces (seq, run_id, trace_id, capability, started_us, started_mono_ns, duration_ms, result, notable,"
    " spans, extras) VALUES (?, ?, 't', 'a.b', 1, 1, 1.5, ?, ?, '[]', '{}')"
)
_LOG = (
    "INSERT INTO logs (seq, run_id, ts_us, level, logger, msg, notable, repeats, extras)"
    " VALUES (?, ?, 1, 'info', 'x', 'm', ?, 0, '{}')"
)


def old_store(path: Path, version: int) -> None:
    """Writes four traces, three log records and two runs: one ended, the other was killed."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for number, file in FILES.items():
            if number <= version:
                connection.executescript(file.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {TELEMETRY.application_id}")
        connection.execute(f"PRAGMA user_version = {version}")
        run = "INSERT INTO runs (run_id, version, pid, started_us, ended_us) VALUES (?, '1', 4194305, 1, ?)"
        connection.executemany(run, [("ended", 9), ("killed", None)])
        connection.executemany(
            _TRACE, [(5, "ended", "ok", 0), (6, "ended", "timeout", 1), (9, "killed", "ok", 0), (12, "killed", "ok", 0)]
        )
        connection.executemany(_LOG, [(7, "ended", 0), (8, "killed", 1), (13, "killed", 0)])
        connection.execute("INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (14, 1, 'log', 'killed', 3)")
