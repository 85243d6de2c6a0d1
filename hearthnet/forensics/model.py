"""Data model of forensics: a case, its runs, timeline entries and verdict.

Readers of the files fill a `Case`, `verdict` judges it, and `report` shows it. Times in `_us` are UTC microseconds.
Recorded data is untrusted: all of it is bounded text here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from hearthnet.constants import NODE_ROLE

__all__ = [
    "CAUSES",
    "CONFIDENCES",
    "DEFAULT_LIMIT",
    "MAX_LIMIT",
    "Case",
    "Entry",
    "ErrorGroup",
    "InFlight",
    "Kernel",
    "Minute",
    "OomKills",
    "Run",
    "Source",
    "Verdict",
    "Vitals",
]

CAUSES: Final = {
    "clean_stop": "it stopped cleanly",
    "exception": "an uncaught exception ended it",
    "native_fault": "a fault in native code ended it",
    "out_of_memory": "it ran out of memory",
    "killed": "it was killed, or exited without cleanup; files alone cannot tell these apart",
    "power_loss": "the machine lost power or its kernel crashed",
    "disk_full": "the disk was full",
    "loop_stuck": "its event loop was stuck",
    "restart_loop": "it keeps dying soon after its start",
    "running": "it is still running",
    "imported": "its records are imported; how it ended is not among them",
    "unknown": "the files do not show how it ended",
}
CONFIDENCES: Final = ("certain", "likely", "possible")  # strongest first
DEFAULT_LIMIT: Final = 30  # entries of the timeline
MAX_LIMIT: Final = 20_000  # both rings


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read, or should have been.

    Attributes:
        path: its path.
        kind: `database`, `wal`, `box`, `log`, `fault`, `doctor`, `quarantine`.
        state: `whole`, `damaged`, `missing`, `unreadable`, `empty`, `foreign`, `newer`.
        detail: what could and could not be read, in one line.
        size_bytes: its size; 0 if missing.
    """

    path: Path
    kind: str
    state: str
    detail: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Vitals:
    """A sample of process health. None: not measured on that system."""

    ts_us: int
    rss_bytes: int | None = None
    memory_left_bytes: int | None = None  # up to the nearest limit: machine, cgroup or address space
    open_files: int | None = None
    disk_free_bytes: int | None = None
    load: float | None = None  # the machine's, over one minute
    loop_lag_s: float | None = None  # delay of the event loop; keeps growing while it is stuck
    group_oom_kills: int | None = None  # processes of its control group that the kernel has killed for memory
    group_processes: int | None = None  # of that group, itself included


class OomKills(NamedTuple):
    """The kernel's counters of processes that it killed for memory. None: unknown.

    Attributes:
        group: inode of the control group; 0: none is known.
        in_group: killed in that group.
        on_machine: killed on the whole machine.
    """

    group: int = 0
    in_group: int | None = None
    on_machine: int | None = None


class Kernel(NamedTuple):
    """Whether the kernel killed a run for memory, by its own account.

    Attributes:
        confidence: one of CONFIDENCES that it did; or `none`: it did not.
        lines: the evidence.
    """

    confidence: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One run, of the node or of another program that records into its store.

    Attributes:
        started_us: when it started.
        ended_us: when it ended; None if it recorded no end.
        end_reason: as in the table `runs`: `clean`, `unclean`, or None.
        last_seen_us: the last time anything shows it running.
        is_alive: the process runs on this machine now; None: unknown (files from elsewhere).
        has_box: its black box is among the files, so no later run has recovered it.
        vitals: oldest first.
        fault: the output of faulthandler, if any.
        kernel: the kernel's own account of its end; None: it has none.
        program: the file name of the program; empty: unknown.
        role: `node` or `library`; empty: as `node_id` says, in files of older versions.
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
    program: str = ""
    role: str = ""
    kernel: Kernel | None = None

    @property
    def is_node(self) -> bool:
        """Whether it is the node's own run."""
        return self.role == NODE_ROLE if self.role else self.node_id is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the timeline.

    Attributes:
        kind: `trace`, `log`, `gap`, `start` or `end` (of a run), `doctor`.
        status: a trace's result, a record's level, a gap's reason, a finding's status.
        name: a trace's capability, a record's logger, a gap's kind, a check's name.
        text: an error, a message, or how many records were dropped.
        source: `database`, `box`, `log`, `doctor`: the best source that has it.
        seq: its place in the store's order; None if it has none.
        spans: of a trace, as in the column `spans`.
        number: of a record, given at birth; with `run_id` it tells which one it is.
        seen_us: of a trace that had not ended: when its run was last seen, by the clock of that time.
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
    number: int | None = None
    seen_us: int | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """A trace that had not ended when its run died; `age_ms` is its age when the run was last seen."""

    run_id: str
    trace_id: str
    capability: str
    started_us: int
    age_ms: float
    span: str | None = None
    span_age_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Errors that differ only in numbers, ids, paths and quoted words."""

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
    """The calls that finished within one minute."""

    start_us: int
    traces: int
    failed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended.

    Attributes:
        cause: a key of CAUSES.
        confidence: one of CONFIDENCES.
        evidence: the lines that it rests on.
        missing: evidence that would have helped and was not there.
        alternatives: other causes that fit the same evidence, likeliest first.
    """

    cause: str
    confidence: str
    evidence: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()


@dataclass(slots=True)
class Case:
    """Everything the files say about a run.

    Attributes:
        directory: the folder of the store.
        run: the run to judge; None if there is none.
        runs: newest first.
        entries: the selected part of the timeline, oldest first, merged from all sources without duplicates.
        in_flight: the run's traces that had not ended.
        errors: the run's errors in groups, most frequent first.
        slowest: the run's traces, slowest first.
        minutes: the last minutes before the run was last seen, oldest first, empty ones included.
        findings: from the doctor's last report on the run.
        sources: every file that was read or is missing.
        signs: the run's newest warnings and errors, and the records that cancel one, oldest first. A verdict rests on
            these; they do not depend on what was selected.
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
    findings_at: str | None = None

    def programs(self) -> dict[str, str]:
        """Returns the program of each run by its id, where it is known."""
        return {run.run_id: run.program for run in self.runs if run.program}
