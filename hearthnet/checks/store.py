"""The check of the store itself: that it is whole, is written, keeps up, and loses nothing.

Everything that is wrong is told, what is worst first; its fix is the one shown.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hearthnet.checks.results import found, warned
from hearthnet.checks.telemetry import opened_for
from hearthnet.config import Config, ObservabilityConfig
from hearthnet.errors import HearthNetError
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.store.query.info import Integrity, Losses, examine, info, losses
from hearthnet.observability.store.recovery.quarantine import quarantined
from hearthnet.observability.telemetry import DATABASE, Telemetry

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["telemetry_store"]

_MAX_LAG_S: Final = 10.0  # the black box holds what comes in so long, at 2,000 a second
_ECO_COMMIT_S: Final = 30.0
_PASSING: Final = ("locked", "wal_pinned")  # end by themselves, as a rule before anything is lost
_FULL: Final = ("disk is full", "No space left")  # in the words of a store that could not even be opened
_RESTART: Final = "hearthnet run"


class Trouble(NamedTuple):
    """Something that is not as it should be."""

    is_failure: bool
    told: str
    fix: str


def telemetry_store(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """telemetry.db is whole and written, keeps up, loses nothing, and no damaged one waits for somebody to look."""
    settings = config.observability
    path = (settings.data_dir or Path()) / DATABASE
    evidence: dict[str, Any] = {"path": str(path)}
    opened = opened_for(config, bus)
    troubles = [*_not_written(opened, settings, path, evidence), *_quarantine(path, evidence)]
    detail = "nothing recorded yet"
    if path.is_file():
        integrity = examine(path)
        evidence["integrity"] = integrity.said
        evidence["schema"] = integrity.schema
        troubles += _damage(integrity, path, is_running=opened is not None)
        if integrity.is_readable:
            detail = _measure(settings, path, evidence, troubles)
    elif opened is not None and opened.error is None:
        told = f"{path} is gone while the node runs; it is made anew with the next record"
        troubles.append(Trouble(True, told, f"ls -la {shlex.quote(str(path.parent))}"))
    return _finding(detail, troubles, evidence)


def _finding(detail: str, troubles: list[Trouble], evidence: Mapping[str, Any]) -> CheckResult:
    if not troubles:
        return found(True, detail, **evidence)
    troubles.sort(key=lambda trouble: not trouble.is_failure)
    told = "; ".join(trouble.told for trouble in troubles)
    if troubles[0].is_failure:
        return found(False, told, troubles[0].fix, **evidence)
    return warned(told, troubles[0].fix, **evidence)


# --- is it written


def _not_written(
    opened: Telemetry | None, settings: ObservabilityConfig, path: Path, evidence: dict[str, Any]
) -> Iterator[Trouble]:
    """Yields why nothing is written at present, and that the writer does not keep up: the running node knows."""
    if opened is None:
        return
    traces, logs, lag_s = opened.waiting()
    reason = opened.error
    evidence["waiting"] = {"traces": traces, "logs": logs, "oldest_s": round(lag_s, 3)}
    evidence["not_written"] = reason
    late = f"{traces + logs} record(s) wait, the oldest for {lag_s:.0f} s"
    max_lag_s = _MAX_LAG_S + (_ECO_COMMIT_S if settings.eco else settings.flush_interval_s)
    if reason is not None:
        why, fix = _REASONS.get(reason) or (reason, _space if any(word in reason for word in _FULL) else _look_at)
        is_failure = reason not in _PASSING or lag_s > max_lag_s
        yield Trouble(is_failure, f"the store is not written at present: {why}; {late}", fix(path))
    elif lag_s > max_lag_s:
        yield Trouble(False, f"the store is written late: {late}", f"vmstat 1 5; df -h {shlex.quote(str(path.parent))}")


def _look_at(path: Path) -> str:
    return f"ls -la {shlex.quote(str(path.parent))}; hearthnet log --level warning"


def _space(path: Path) -> str:
    return f"df -h {shlex.quote(str(path.parent))}"


def _holders(path: Path) -> str:
    return f"fuser -v {shlex.quote(str(path))}"


def _mount(path: Path) -> str:
    return f"findmnt --target {shlex.quote(str(path.parent))}; ls -la {shlex.quote(str(path.parent))}"


# What the writer says in a word: what that means, and where to look. It goes on trying by itself.
_REASONS: Final[dict[str, tuple[str, Callable[[Path], str]]]] = {
    "disk_full": ("the disk is full", _space),
    "read_only": ("it may only be read", _mount),
    "locked": ("another program keeps it locked", _holders),
    "wal_pinned": ("a reader in a long transaction keeps its WAL from being reused", _holders),
    "io": ("the disk fails", lambda path: "dmesg --level err,warn"),
    "corrupt": ("it is damaged", lambda path: _RESTART),
    "gone": ("the file was moved or removed", _look_at),
    "other": ("SQLite refuses it", _look_at),
}


# --- is it whole


def _quarantine(path: Path, evidence: dict[str, Any]) -> Iterator[Trouble]:
    kept = quarantined(path)
    if kept:
        aside = str(kept[-1])
        evidence["quarantined"] = aside
        quoted = shlex.quote(aside)
        fix = f"look at it (sqlite3 {quoted}), then acknowledge: rm -r {quoted}*"
        yield Trouble(False, f"a database that could not be used was moved to {aside}; a new one was begun", fix)


def _damage(integrity: Integrity, path: Path, *, is_running: bool) -> Iterator[Trouble]:
    again = "stop the node and start it again" if is_running else "start the node"
    if integrity.is_damaged:
        fix = f"{again} ({_RESTART}): it moves a damaged store aside and takes over what can be read"
        yield Trouble(True, f"{path} is damaged: {integrity.said}", fix)
    elif not integrity.is_readable:
        yield Trouble(True, f"{path} cannot be read: {integrity.said}", _look_at(path))
    elif integrity.is_newer:
        told = f"{path} is of schema {integrity.schema}, this program knows {integrity.known}"
        yield Trouble(False, f"{told}: started, it would move the store aside", "install the newer hearthnet again")


# --- how full it is, and what was lost


def _measure(settings: ObservabilityConfig, path: Path, evidence: dict[str, Any], troubles: list[Trouble]) -> str:
    """Adds to the evidence how the store stands, and to the troubles what was lost; returns it in words."""
    try:
        stands = info(path, settings)
        lost = losses(path)
    except HearthNetError as error:  # moved aside since it was looked at, say
        troubles.append(Trouble(True, error.message, error.hint or _look_at(path)))
        return ""
    rings, disk = stands["rings"], stands["disk"]
    evidence["rings"] = {name: {key: ring[key] for key in ("rows", "size", "notable")} for name, ring in rings.items()}
    evidence["bytes"] = {**disk["bytes"], "total": disk["total"], "budget": disk["budget"]["total"]}
    evidence["lost"] = asdict(lost)
    evidence["boxes"] = sum(not box["alive"] for box in stands["boxes"])
    troubles += _lost(lost)
    if disk["total"] > disk["budget"]["total"]:
        told = f"{_mb(disk['total'])} are used, [observability] max_disk_mb allows {_mb(disk['budget']['total'])}"
        troubles.append(Trouble(False, told, "hearthnet telemetry info"))
    fill = ", ".join(f"{ring['rows']:,} of {ring['size']:,} {name}" for name, ring in rings.items())
    kept = f"{lost.total:,} lost in all" if lost.total else "none lost"
    unchecked = "" if evidence["integrity"] == "ok" else f"; {evidence['integrity']}"
    return f"{fill}; {_mb(disk['total'])} of {_mb(disk['budget']['total'])}; {kept}{unchecked}"


def _lost(lost: Losses) -> Iterator[Trouble]:
    if lost.last_hour:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in Counter(lost.last_hour).most_common())
        told = f"{sum(lost.last_hour.values()):,} record(s) were lost within the last hour: {reasons}"
        yield Trouble(False, told, "hearthnet telemetry info")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
