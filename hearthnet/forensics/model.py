"""What is known of a node that may have died: plain data, between the reading of files and the telling of it.

Readers of the files fill a `Case`; `verdict` judges it; `text`, `document` and `page` show it. Times that end in `_us`
are UTC microseconds. Everything that a stranger may have recorded is text here, and bounded; nothing is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

__all__ = [
    "CAUSES",
    "CONFIDENCES",
    "Case",
    "Entry",
    "ErrorGroup",
    "InFlight",
    "Minute",
    "Run",
    "Source",
    "Verdict",
    "Vitals",
    "iso",
]

CAUSES: Final = {
    "clean_stop": "it was stopped and ended in order",
    "exception": "an exception that nobody caught ended it",
    "native_fault": "a fault in native code ended it",
    "out_of_memory": "it ran out of memory",
    "killed": "it was killed, or exited without clean-up; files alone cannot tell these apart",
    "power_loss": "the machine lost power or its kernel died",
    "disk_full": "the disk was full",
    "loop_stuck": "its event loop was stuck",
    "restart_loop": "it dies again and again, soon after its start",
    "running": "it is still running",
    "unknown": "the files do not tell",
}
CONFIDENCES: Final = ("certain", "likely", "possible")  # strongest first


def iso(us: int | None) -> str | None:
    """Returns UTC microseconds as ISO 8601 in UTC; None for a number that no clock shows."""
    if us is None:
        return None
    try:
        return datetime.fromtimestamp(us / 1e6, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was looked at.

    Attributes:
        path: where.
        kind: `database`, `wal`, `box`, `log`, `fault`, `doctor`, `quarantine`.
        state: `whole`, `damaged`, `missing`, `unreadable`, `empty`, `foreign`, `newer`.
        detail: what of it could be read and what could not, one line.
        size_bytes: its size; 0 where it is missing.
    """

    path: Path
    kind: str
    state: str
    detail: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a process felt at one moment. None: not measured on that system."""

    ts_us: int
    rss_bytes: int | None = None
    memory_left_bytes: int | None = None  # before a limit ends it: of the machine, of its cgroup, of its address space
    open_files: int | None = None
    disk_free_bytes: int | None = None
    load: float | None = None  # of the machine, one minute
    loop_lag_s: float | None = None  # how late the event loop was; still growing while it is stuck


@dataclass(frozen=True, slots=True)
class Run:
    """One life of a node.

    Attributes:
        started_us, ended_us: None for the end of a run that wrote none.
        end_reason: as `runs` has it: `clean`, `unclean`, or None.
        last_seen_us: its last sign of life, whatever kind.
        is_alive: the process runs on this machine now; None: cannot be told (files from elsewhere).
        has_box: its black box is among the files, so what it says was not taken in by a later run.
        vitals: oldest first.
        fault: what faulthandler wrote, if it did.
    """

    run_id: str
    started_us: int
    ended_us: int | None = None
    end_reason: str | None = None
    node_id: str | None = None
    version: str = ""
    pid: int = 0
    boot_id: str | None = None
    last_seen_us: int | None = None
    is_alive: bool | None = None
    has_box: bool = False
    vitals: tuple[Vitals, ...] = ()
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One moment of the timeline.

    Attributes:
        kind: `trace`, `log`, `gap`, `start` or `end` (of a run), `doctor`.
        status: a trace's result, a record's level, a gap's reason, a finding's status.
        name: a trace's capability, a record's logger, a gap's kind, a check's name.
        text: an error, a message, how many were lost.
        source: `database`, `box`, `log`, `doctor`: where it was found, the best of them.
        seq: its number in the store's order; None for what has none.
        spans: of a trace, as the column `spans` has them.
    """

    ts_us: int
    kind: str
    status: str
    name: str
    text: str = ""
    run_id: str | None = None
    seq: int | None = None
    trace_id: str | None = None
    duration_ms: float | None = None
    source: str = "database"
    extras: dict[str, Any] = field(default_factory=dict)
    exc: str | None = None
    spans: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class InFlight:
    """A trace that had begun and not ended when its run died; `age_ms` is as of the run's last sign of life."""

    run_id: str
    trace_id: str
    capability: str
    started_us: int
    age_ms: float
    span: str | None = None
    span_age_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Errors that are the same but for numbers and ids in them."""

    fingerprint: str
    kind: str  # trace, log
    name: str
    text: str
    count: int
    first_us: int
    last_us: int
    trace_id: str | None = None  # of the last one


@dataclass(frozen=True, slots=True)
class Minute:
    """What was finished within one minute."""

    start_us: int
    traces: int
    failed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended.

    Attributes:
        cause: a key of CAUSES.
        confidence: of CONFIDENCES.
        evidence: the lines that led to it, each with where it was found.
        missing: what would have told more and was not there.
        alternatives: other causes that the same evidence allows, likeliest first.
    """

    cause: str
    confidence: str
    evidence: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()


@dataclass(slots=True)
class Case:
    """All that the files say; `run` is the one that is judged, None where there is none.

    Attributes:
        runs: newest first.
        entries: oldest first, over all sources, each once, bounded to those asked for.
        in_flight: of the judged run.
        errors: most frequent first.
        slowest: traces, slowest first.
        minutes: the last minutes before the judged run's last sign of life, oldest first, empty ones included.
        findings: the doctor's last, as its memory has them.
        sources: every file that was looked at.
        directory: where the store lies.
        signs: the newest warnings and errors of the judged run, and what took one back, oldest first, whatever was
            asked for: what a verdict rests on.
    """

    directory: Path
    run: Run | None = None
    runs: list[Run] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    in_flight: list[InFlight] = field(default_factory=list)
    errors: list[ErrorGroup] = field(default_factory=list)
    slowest: list[Entry] = field(default_factory=list)
    minutes: list[Minute] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    signs: list[Entry] = field(default_factory=list)
