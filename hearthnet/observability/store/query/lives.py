"""The runs of a store as rows: whose they are, how they ended, and whether they live."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from hearthnet.forensics.evidence.entries import vitals_of
from hearthnet.forensics.model import Vitals
from hearthnet.observability.store.reader import Reader

__all__ = ["MAX_RUNS", "last_dead_run", "main_run", "newest_runs", "run_row", "run_vitals", "runs_between"]

MAX_RUNS: Final = 200
NAMES: Final = (
    "run_id", "program", "role", "node_id", "version", "pid", "started_us", "ended_us", "last_seen_us", "end_reason",
    "commits",
)  # fmt: skip
_SELECT: Final = f"SELECT {', '.join(NAMES)} FROM runs"  # noqa: S608  # constants


def _made(row: tuple[Any, ...], living: Collection[str]) -> dict[str, Any]:
    """Returns a run; `is_alive` says whether its process holds its box now."""
    found = dict(zip(NAMES, row, strict=True))
    return {**found, "is_alive": found["run_id"] in living}


def runs_between(reader: Reader, from_us: int, to_us: int, living: Collection[str]) -> list[dict[str, Any]]:
    """Returns the newest runs that were there within that time, newest first.

    Raises:
        StoreError: raised as by all queries when there is no database, or it cannot be read.
    """
    where = "WHERE started_us < ? AND ifnull(ended_us, ?) >= ? ORDER BY rowid DESC LIMIT ?"
    return [_made(row, living) for row in reader.rows(f"{_SELECT} {where}", (to_us, to_us, from_us, MAX_RUNS))]


def newest_runs(reader: Reader, living: Collection[str]) -> list[dict[str, Any]]:
    """Returns the newest runs, newest first.

    Raises:
        StoreError: raised when there is no database, or it cannot be read.
    """
    return [_made(row, living) for row in reader.rows(f"{_SELECT} ORDER BY rowid DESC LIMIT ?", (MAX_RUNS,))]


def run_row(reader: Reader, run_id: str, living: Collection[str]) -> dict[str, Any] | None:
    """Returns a run by its id, or None if the store has none of it."""
    rows = reader.rows(f"{_SELECT} WHERE run_id = ?", (run_id,))
    return _made(rows[0], living) if rows else None


def main_run(reader: Reader, living: Collection[str]) -> dict[str, Any] | None:
    """Returns the newest run of the node, or in a store without a node of any program; None if there is none."""
    rows = reader.rows(f"{_SELECT} ORDER BY node_id IS NULL, rowid DESC LIMIT 1")
    return _made(rows[0], living) if rows else None


def last_dead_run(reader: Reader, *, of_node: bool) -> dict[str, Any] | None:
    """Returns the newest run of the node, or of other programs, that was closed by a later one; None without any."""
    where = "WHERE end_reason = 'unclean' AND (node_id IS NOT NULL) = ? ORDER BY rowid DESC LIMIT 1"
    rows = reader.rows(f"{_SELECT} {where}", (of_node,))
    return _made(rows[0], ()) if rows else None


def run_vitals(reader: Reader, run_id: str) -> list[Vitals]:
    """Returns a dead run's last samples of process health, oldest first."""
    rows = reader.rows("SELECT vitals FROM runs WHERE run_id = ?", (run_id,))
    return [*vitals_of(rows[0][0])] if rows else []
