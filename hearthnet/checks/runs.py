"""Checks of how the node's runs ended: the last run, and several unclean ends in a short time.

The cause is the verdict of `hearthnet autopsy`; the check shows its first line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.results import format_names, found, skipped, warned
from hearthnet.checks.telemetry import opened_for
from hearthnet.config import Config
from hearthnet.display import counted
from hearthnet.errors import HearthNetError
from hearthnet.forensics.box import process_start, this_boot
from hearthnet.forensics.model import CAUSES, Case, InFlight, Run, Verdict
from hearthnet.forensics.verdict import RESTART_LOOP_RUNS, RESTART_LOOP_US, judge
from hearthnet.forensics.whose import like
from hearthnet.moments import iso
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.store.recovery.run_ends import died, end_us, read_case
from hearthnet.observability.store.rows import now_us
from hearthnet.observability.telemetry import DATABASE

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["last_run", "restart_loop"]

_FIX: Final = "hearthnet autopsy"
_DAY_US: Final = 24 * 3_600_000_000  # a node that has run for so long has recovered
_MAX_LISTED: Final = 10
_CLEAN_STOP: Final = "clean_stop"
_LOOP: Final = "restart_loop"


def last_run(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The previous run stopped cleanly; if not, the cause as far as it is known."""
    case = _read(config, bus)
    if isinstance(case, CheckResult):
        return case
    run = case.run
    if run is None:
        return found(True, "no previous run" if case.runs else "no run is recorded yet")
    verdict = judge(case)
    evidence = _evidence(run, verdict, case)
    whose = f"{run.program}'s" if run.program and not run.is_node else "the"
    when = f"{whose} run of {iso(run.started_us)}"
    if verdict.cause == _CLEAN_STOP:
        return found(True, f"{when} stopped cleanly", **evidence)
    detail = f"{when} ended uncleanly: {CAUSES[verdict.cause]} ({verdict.confidence}){_first_line(verdict)}"
    left = evidence["interrupted"]
    if left:
        detail += f"; {counted(left, 'call')} interrupted: {_format_open(_count_open(case, {run.run_id}))}"
    after = case.runs[: case.runs.index(run)]
    if after and now_us() - after[-1].started_us > _DAY_US:
        return found(True, f"healthy for more than a day; before that, {detail}", **evidence)
    return warned(detail, _FIX, **evidence)


def restart_loop(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The node is not in a restart loop: fewer than three unclean ends within 20 minutes."""
    case = _read(config, bus)
    if isinstance(case, CheckResult):
        return case
    ended = _unclean_runs(case)
    evidence: dict[str, Any] = {
        "deaths": len(ended),
        "within_s": RESTART_LOOP_US // 1_000_000,
        "runs": [_run_evidence(run) for run in ended[:_MAX_LISTED]],
    }
    minutes = RESTART_LOOP_US // 60_000_000
    if len(ended) < RESTART_LOOP_RUNS:
        return found(True, f"{counted(len(ended), 'unclean end')} within {minutes} min", **evidence)
    counts = _count_open(case, {run.run_id for run in ended})
    evidence["shared"] = [
        {"capability": capability, "span": span, "runs": runs} for (capability, span), runs in _shared(counts)
    ]
    # Another run may have ended since, cleanly or of another program.
    last, fix = case, _FIX
    if case.run is not ended[0]:
        read = _read(config, bus, ended[0].run_id)
        last, fix = case if isinstance(read, CheckResult) else read, f"{_FIX} --run {ended[0].run_id}"
    whose = f" of {ended[0].program}" if ended[0].program and not ended[0].is_node else ""
    number = f"{_ordinal(len(ended))} unclean end{whose}"
    detail = f"{number} within {minutes} min, the last: {CAUSES[_own_cause(judge(last))]}"
    if evidence["shared"]:
        detail += f"; open in several of them: {_format_open(dict(_shared(counts)))}"
    return found(False, detail, fix, **evidence)


def _read(config: Config, bus: CapabilityBus | None, run_id: str | None = None) -> Case | CheckResult:
    """Returns the case of a run, by default the last that ended, or the finding that nothing is known."""
    path = (config.observability.data_dir or Path()) / DATABASE
    if not path.is_file():
        return found(True, "nothing recorded yet")
    opened = opened_for(config, bus)
    try:
        case = read_case(path, () if opened is None else (opened.run_id,), run_id)
    except HearthNetError as error:
        return skipped(f"{error.message}: see telemetry_store")
    run = case.run
    if run is not None and run.end_reason is None and not run.has_box and _is_running(run):
        # It is alive without a black box, which did not fit on a full disk.
        case = read_case(path, (run.run_id,))
    return case


def _is_running(run: Run) -> bool:
    """Returns whether the process of a run may be alive: another one may have its pid by now."""
    return run.boot_id == this_boot() and process_start(run.pid) is not None


def _unclean_runs(case: Case) -> list[Run]:
    """Returns the runs with an unclean end in the window, which ends now or, if none is alive, with the last run.

    Where no node records, those of the program that has most of them.
    """
    if case.run is None:
        return []
    is_alive = case.runs[0] is not case.run
    until_us = now_us() if is_alive else end_us(case.run)
    ended = case.runs[case.runs.index(case.run) :]
    # A clean stop in between, as by an operator who tries to help, does not end the loop.
    found = [run for run in ended if died(run) and until_us - end_us(run) <= RESTART_LOOP_US]
    return max((like(found, run) for run in found), key=len, default=[])


def _count_open(case: Case, run_ids: set[str]) -> dict[tuple[str, str | None], int]:
    """Returns the number of runs at whose end each capability and span was open, most frequent first."""
    pairs = {(trace.run_id, trace.capability, trace.span) for trace in _in_flight(case, run_ids)}
    return dict(Counter((capability, span) for _, capability, span in sorted(pairs, key=str)).most_common())


def _in_flight(case: Case, run_ids: set[str]) -> Iterator[InFlight]:
    return (trace for trace in case.in_flight if trace.run_id in run_ids)


def _shared(counts: dict[tuple[str, str | None], int]) -> list[tuple[tuple[str, str | None], int]]:
    """Returns the pairs that were open in more than one run."""
    return [(pair, runs) for pair, runs in counts.items() if runs > 1][:_MAX_LISTED]


def _format_open(pairs: dict[tuple[str, str | None], int]) -> str:
    return format_names([capability if span is None else f"{span} of {capability}" for capability, span in pairs])


def _evidence(run: Run, verdict: Verdict, case: Case) -> dict[str, Any]:
    left = list(_in_flight(case, {run.run_id}))
    return {
        **_run_evidence(run),
        "cause": verdict.cause,
        "confidence": verdict.confidence,
        "because": verdict.evidence[:_MAX_LISTED],
        "alternatives": verdict.alternatives,
        "interrupted": len(left),
        "open": [
            {
                "capability": trace.capability,
                "span": trace.span,
                "age_ms": round(trace.age_ms),
                "trace_id": trace.trace_id,
            }
            for trace in left[:_MAX_LISTED]
        ],
    }


def _run_evidence(run: Run) -> dict[str, Any]:
    ended_us = end_us(run)
    return {
        "run_id": run.run_id,
        "pid": run.pid,
        "version": run.version,
        "started": iso(run.started_us),
        "ended": iso(ended_us),
        "lived_s": max(0, ended_us - run.started_us) / 1e6,
    }


def _own_cause(verdict: Verdict) -> str:
    """Returns the cause of the last run itself if the verdict is a restart loop."""
    others = (cause for cause in verdict.alternatives if verdict.cause == _LOOP)
    return next(others, verdict.cause)


def _first_line(verdict: Verdict) -> str:
    # For a kill it would only repeat that no end was recorded.
    return f"; {verdict.evidence[0]}" if verdict.evidence and verdict.cause != "killed" else ""


def _ordinal(number: int) -> str:
    is_teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if is_teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
