"""The check of the telemetry store: intact, written, keeping up, dropping nothing.

It reports all problems, worst first, with the fix of the worst.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hearthnet.checks.machine import file_system_of, out_of_space, uncreatable
from hearthnet.checks.results import found, warned
from hearthnet.checks.telemetry import opened_for
from hearthnet.config import Config, ObservabilityConfig
from hearthnet.database import Part, quoted
from hearthnet.display import counted
from hearthnet.errors import HearthNetError
from hearthnet.files import foreign, move_aside_hint, why_no_file
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.store.budget import MB, Budget
from hearthnet.observability.store.lock import LOCK_FILE
from hearthnet.observability.store.query.info import (
    Additions,
    Integrity,
    Losses,
    additions,
    examine,
    info,
    losses,
)
from hearthnet.observability.store.recovery.quarantine import quarantined
from hearthnet.observability.store.writer import BATCH_BYTES
from hearthnet.observability.telemetry import DATABASE, Telemetry

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["telemetry_store"]

_MAX_LAG_S: Final = 10.0  # the black box holds 10 s of records at 2,000 a second
_ECO_COMMIT_S: Final = 30.0
_PASSING: Final = ("locked", "wal_pinned")  # end by themselves, as a rule before anything is dropped
_FULL: Final = ("disk is full", "No space left")  # the errors of a store that could not be opened
_RESTART: Final = "hearthnet run"
_PLENTY_BYTES: Final = 100_000_000  # more than a commit ever needs
_OTHERS: Final = "other-tables.db"
# The shell, to change a database that a node may be writing: without a time to wait it gives up at its lock.
_SHELL: Final = "sqlite3 -cmd '.timeout 60000'"


class Problem(NamedTuple):
    """One problem: a failure, or else a warning."""

    is_failure: bool
    text: str
    fix: str


def telemetry_store(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """telemetry.db is intact and written, keeps up, drops nothing, and no quarantined database waits for review."""
    settings = config.observability
    path = (settings.data_dir or Path()) / DATABASE
    evidence: dict[str, Any] = {"path": str(path)}
    opened = opened_for(config, bus)
    added = _additions(path)
    # What refuses records before what follows from it: the fix is that of the first.
    problems = [*_not_ours(added, path, Budget(settings.max_disk_mb), evidence, is_running=opened is not None)]
    problems += [*_not_written(opened, settings, path, added, evidence), *_quarantine(path, evidence)]
    detail = "nothing recorded yet"
    if path.is_file():
        integrity = examine(path)
        evidence["integrity"] = integrity.said
        evidence["schema"] = integrity.schema
        problems += _damage(integrity, path, is_running=opened is not None)
        if integrity.is_damaged and opened is not None:
            opened.suspect()
        if integrity.is_readable:
            detail = _fill_level(settings, path, evidence, problems)
    elif os.access(path.parent, os.F_OK) and (reason := why_no_file(path)) is not None:
        problems.append(Problem(True, f"{path} cannot be used: {reason}", move_aside_hint(path)))
    elif opened is not None and opened.error is None:
        text = f"{path} is gone while the node runs; it is created again with the next record"
        problems.append(Problem(True, text, f"ls -la {shlex.quote(str(path.parent))}"))
    elif not os.access(path.parent, os.F_OK) and (missing := uncreatable(path.parent)) is not None:
        problems.append(Problem(True, *missing))
    return _finding(detail, problems, evidence)


def _finding(detail: str, problems: list[Problem], evidence: Mapping[str, Any]) -> CheckResult:
    if not problems:
        return found(True, detail, **evidence)
    problems.sort(key=lambda problem: not problem.is_failure)
    text = "; ".join(problem.text for problem in problems)
    if problems[0].is_failure:
        return found(False, text, problems[0].fix, **evidence)
    return warned(text, problems[0].fix, **evidence)


# --- written


def _not_written(
    opened: Telemetry | None, settings: ObservabilityConfig, path: Path, added: Additions, evidence: dict[str, Any]
) -> Iterator[Problem]:
    """Yields why the running node cannot write at present, or that its writer does not keep up."""
    if opened is None:
        return
    traces, logs, lag_s = opened.waiting()
    reason = opened.error
    evidence["waiting"] = {"traces": traces, "logs": logs, "oldest_s": round(lag_s, 3)}
    evidence["not_written"] = reason
    late = f"{counted(traces + logs, 'record')} pending, the oldest for {lag_s:.0f} s"
    max_lag_s = _MAX_LAG_S + (_ECO_COMMIT_S if settings.eco else settings.flush_interval_s)
    if reason is not None:
        why, fix = _why_not(reason, path)
        if reason in _TOLD_IN_FULL and opened.error_text:
            why = f"{why}: {opened.error_text}"
        is_failure = reason not in _PASSING or lag_s > max_lag_s
        command = _move_out(path, added) if reason == "ceiling" and added.parts else fix
        yield Problem(is_failure, f"the store is not being written: {why}; {late}", command)
        if reason not in _REASONS.keys() - {"other"} and added.on_ours and not added.refusing:
            names = ", ".join(f"the {part.kind} {part.name} on {part.table}" for part in added.on_ours)
            yield Problem(True, f"{names} may refuse records", _drop(path, added.on_ours))
    elif lag_s > max_lag_s:
        yield Problem(False, f"the store is behind: {late}", f"vmstat 1 5; df -h {shlex.quote(str(path.parent))}")


def _why_not(reason: str, path: Path) -> tuple[str, str]:
    """Returns why the store is not being written, and the fix: by its disk, if that has no space, else by `reason`."""
    is_full = reason == "disk_full" or any(word in reason for word in _FULL)
    try:
        short = None if reason in _PASSING else out_of_space(path.parent)
        is_at_limit = is_full and file_system_of(path.parent).free_bytes > _PLENTY_BYTES
    except OSError:  # not there, or in a folder that we may not enter
        short, is_at_limit = None, False
    if short is not None:
        return short
    if is_at_limit:
        return "SQLite says that it is full, but its disk is not: it has reached its limit", "hearthnet telemetry info"
    why, fix = _REASONS.get(reason) or (reason, _space if is_full else _show_files)
    return why, fix(path)


def _show_files(path: Path) -> str:
    for file in (path.with_name(LOCK_FILE), path):
        if (found := foreign(file)) is not None:
            return found.command
    return f"ls -la {shlex.quote(str(path.parent))}; hearthnet log --level warning"


def _space(path: Path) -> str:
    return f"df -h {shlex.quote(str(path.parent))}"


def _holders(path: Path) -> str:
    return f"fuser -v {shlex.quote(str(path))}"


def _mount(path: Path) -> str:
    return f"findmnt --target {shlex.quote(str(path.parent))}; ls -la {shlex.quote(str(path.parent))}"


_TOLD_IN_FULL: Final = ("read_only", "io", "corrupt", "other")  # with SQLite's words

# The writer's reasons: in words, and the command to investigate. It keeps retrying by itself.
_REASONS: Final[dict[str, tuple[str, Callable[[Path], str]]]] = {
    "disk_full": ("the disk is full", _space),
    "read_only": ("it is read-only", _mount),
    "locked": ("another program keeps it locked", _holders),
    "wal_pinned": ("a reader in a long transaction blocks reuse of its WAL", _holders),
    "io": ("its files cannot be read or written", lambda path: "dmesg --level err,warn"),
    "corrupt": ("it is damaged", lambda path: _RESTART),
    "ceiling": ("the file may not grow, and tables that are not ours take its space", _show_files),
    "gone": ("the file was moved or removed", _show_files),
    "other": ("SQLite refuses it", _show_files),
}


# --- made by others


def _additions(path: Path) -> Additions:
    try:
        return additions(path) if path.is_file() else Additions()
    except HearthNetError:  # the check of its integrity has the error
        return Additions()


def _not_ours(
    added: Additions, path: Path, budget: Budget, evidence: dict[str, Any], *, is_running: bool
) -> Iterator[Problem]:
    """Yields why the schema keeps records from being stored: changes to our tables, and additions of others."""
    if added.parts:
        evidence["not_ours"] = {"parts": added.as_dicts(), "bytes": added.bytes}
    if added.misfit is not None:
        start = "restart the node" if is_running else "start the node"
        fix = f"{start} ({_RESTART}): it moves the store aside and salvages what can be read"
        yield Problem(True, f"{path} does not fit this program: {added.misfit}", fix)
    if added.refusing:
        told = [f"the {part.kind} {part.name} on {part.table}: {words}" for part, words in added.refusing]
        text = f"records are refused, not by us: {'; '.join(told)}"
        yield Problem(True, text, _drop(path, [part for part, _ in added.refusing]))
    if added.bytes > budget.database // 2:
        names = ", ".join(added.of("table", "index"))
        text = f"{names}, not ours, take {_mb(added.bytes)} of {path}, which telemetry keeps within "
        is_failure = path.stat().st_size >= budget.database - BATCH_BYTES
        yield Problem(is_failure, f"{text}{_mb(budget.database)}", _move_out(path, added))


def _drop(path: Path, parts: Sequence[Part]) -> str:
    sql = "; ".join(f"DROP {part.kind.upper()} {quoted(part.name)}" for part in parts)
    return f"{_SHELL} {shlex.quote(str(path))} {shlex.quote(sql)}"


def _move_out(path: Path, added: Additions) -> str:
    """Returns the command that keeps all tables in a copy, and takes those that are not ours out of the store."""
    others = {part.name for part in added.parts if part.kind == "table"}
    gone = [part for part in added.parts if part.kind in ("view", "trigger") and part.table not in others]
    gone += [part for part in added.parts if part.kind == "table"]
    drops = [f"DROP {part.kind.upper()} IF EXISTS {quoted(part.name)}" for part in gone]
    copy = str(path.with_name(_OTHERS)).replace("'", "''")
    sql = "; ".join([f"VACUUM INTO '{copy}'", *drops, "VACUUM"])
    return f"umask 077; {_SHELL} -bail {shlex.quote(str(path))} {shlex.quote(sql)}"


# --- intact


def _quarantine(path: Path, evidence: dict[str, Any]) -> Iterator[Problem]:
    kept = quarantined(path)
    if kept:
        aside = str(kept[-1])
        evidence["quarantined"] = aside
        quoted = shlex.quote(aside)
        trouble = why_no_file(kept[-1])
        if trouble is not None:
            yield Problem(False, f"{aside} waits for review: {trouble}", f"acknowledge: rm -r {quoted}")
            return
        fix = f"inspect it (sqlite3 {quoted}), then acknowledge: rm -r {quoted}*"
        yield Problem(False, f"an unusable database was moved to {aside} and a new one started", fix)


def _damage(integrity: Integrity, path: Path, *, is_running: bool) -> Iterator[Problem]:
    if integrity.is_damaged and is_running:
        text = f"{path} is damaged: {integrity.said}; the node opens it anew, and recovers what its black box has"
        yield Problem(True, text, "hearthnet doctor --check telemetry_store")
    elif integrity.is_damaged:
        fix = f"start the node ({_RESTART}), or the program that records there: a damaged store is salvaged then"
        yield Problem(True, f"{path} is damaged: {integrity.said}", fix)
    elif not integrity.is_readable:
        said = integrity.said if str(path) in integrity.said else f"{path} cannot be read: {integrity.said}"
        yield Problem(True, said, _show_files(path))
    elif integrity.is_newer:
        text = f"{path} has schema {integrity.schema}, this program knows {integrity.known}"
        text += ": it leaves that alone, and keeps what it records in its black box"
        yield Problem(False, text, "install the newer hearthnet again")


# --- fill level and drops


def _fill_level(settings: ObservabilityConfig, path: Path, evidence: dict[str, Any], problems: list[Problem]) -> str:
    """Adds the store's figures to `evidence` and what was dropped to `problems`; returns the fill level in words."""
    try:
        status = info(path, settings)
        lost = losses(path)
    except HearthNetError as error:  # moved aside since it was checked, say
        problems.append(Problem(True, error.message, error.hint or _show_files(path)))
        return ""
    rings, disk = status["rings"], status["disk"]
    evidence["rings"] = {name: {key: ring[key] for key in ("rows", "size", "notable")} for name, ring in rings.items()}
    evidence["bytes"] = {**disk["bytes"], "total": disk["total"], "budget": disk["budget"]["total"]}
    evidence["lost"] = asdict(lost)
    evidence["boxes"] = sum(not box["alive"] for box in status["boxes"])
    problems += _dropped(lost)
    database, share = disk["bytes"]["database"], disk["budget"]["database"]
    if database > share and not any(problem.is_failure for problem in problems):
        text = (
            f"{path} has {_mb(database)}, its share of max_disk_mb is {_mb(share)}: new records replace old ones in it"
        )
        enough = -(-2 * database // MB)
        fix = f"set [observability] max_disk_mb = {enough}, or erase records: hearthnet telemetry purge --older-than 7d"
        problems.append(Problem(False, text, fix))
    if disk["total"] > disk["budget"]["total"]:
        problems.append(_over_budget(disk))
    fill = ", ".join(f"{ring['rows']:,} of {ring['size']:,} {name}" for name, ring in rings.items())
    dropped = f"{lost.total:,} dropped in all" if lost.total else "none dropped"
    unchecked = "" if evidence["integrity"] == "ok" else f"; {evidence['integrity']}"
    return f"{fill}; {_mb(disk['total'])} of {_mb(disk['budget']['total'])}; {dropped}{unchecked}"


def _over_budget(disk: dict[str, Any]) -> Problem:
    used, budget = disk["bytes"], disk["budget"]
    text = f"{_mb(disk['total'])} used, [observability] max_disk_mb allows {_mb(budget['total'])}"
    if used["wal"] > budget["wal"] and disk["total"] - used["wal"] + budget["wal"] <= budget["total"]:
        text += f"; {_mb(used['wal'])} of it is the WAL, which a running node cuts once no reader needs it"
        return Problem(False, text, "wait a minute while the node runs, then: hearthnet doctor --check telemetry_store")
    return Problem(False, text, "hearthnet telemetry info")


_LOSSES: Final = {
    "buffer_full": "the writer fell behind",
    "poison": "SQLite refused them",
    "killed": "a killed run had more uncommitted records than its black box holds",
    "box_full": "the black box of an earlier run had no more space",
    "budget": "they gave way in a black box that had to wait for long",
    "wal_lost": "they were committed, but the database or its WAL was then removed or damaged",
}


def _dropped(lost: Losses) -> Iterator[Problem]:
    if lost.last_hour:
        most = Counter(lost.last_hour).most_common()
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in most)
        text = f"{counted(sum(lost.last_hour.values()), 'record')} dropped in the last hour: {reasons}"
        if words := _LOSSES.get(most[0][0]):
            text += f"; {most[0][0]}: {words}"
        yield Problem(False, text, "hearthnet telemetry info")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
