"""Checks of how the node's runs ended: the last one, and several that died soon one after the other.

The cause is what `hearthnet autopsy` finds from the same signs; the doctor tells its first line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.probes.lock_owner import lock_holders
from hearthnet.checks.results import found, skipped, warned
from hearthnet.checks.telemetry import opened_for
from hearthnet.config import Config
from hearthnet.errors import HearthNetError
from hearthnet.forensics.model import CAUSES, Case, InFlight, Run, Verdict, iso
from hearthnet.forensics.verdict import RESTART_LOOP_RUNS, RESTART_LOOP_US, judge
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.store.lock import LOCK_FILE
from hearthnet.observability.store.recovery.run_ends import died, end_us, read_case
from hearthnet.observability.store.rows import now_us
from hearthnet.observability.telemetry import DATABASE

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["last_run", "restart_loop"]

_FIX: Final = "hearthnet autopsy"
_DAY_US: Final = 24 * 3_600_000_000  # a node that has lived for so long got over it
_MAX_NAMED: Final = 3  # what fits a line
_MAX_LISTED: Final = 10
_CLEAN_STOP: Final = "clean_stop"
_LOOP: Final = "restart_loop"


def last_run(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The run before this one stopped cleanly; else why it did not, as far as is known."""
    case = _read(config, bus)
    if isinstance(case, CheckResult):
        return case
    run = case.run
    if run is None:
        return found(True, "no run before this one" if case.runs else "no run is recorded yet")
    verdict = judge(case)
    evidence = _evidence(run, verdict, case)
    when = f"the run of {iso(run.started_us)}"
    if verdict.cause == _CLEAN_STOP:
        return found(True, f"{when} stopped cleanly", **evidence)
    detail = f"{when} ended uncleanly: {CAUSES[verdict.cause]} ({verdict.confidence}){_first_line(verdict)}"
    left = evidence["interrupted"]
    if left:
        detail += f"; {left} call(s) were cut short: {_named(_opened(case, {run.run_id}))}"
    after = case.runs[: case.runs.index(run)]
    if after and now_us() - after[-1].started_us > _DAY_US:
        return found(True, f"well for more than a day; before that, {detail}", **evidence)
    return warned(detail, _FIX, **evidence)


def restart_loop(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The node does not die again and again: fewer than three unclean ends within 20 minutes."""
    case = _read(config, bus)
    if isinstance(case, CheckResult):
        return case
    deaths = _deaths(case)
    evidence: dict[str, Any] = {
        "deaths": len(deaths),
        "within_s": RESTART_LOOP_US // 1_000_000,
        "runs": [_told(run) for run in deaths[:_MAX_LISTED]],
    }
    minutes = RESTART_LOOP_US // 60_000_000
    if len(deaths) < RESTART_LOOP_RUNS:
        return found(True, f"{len(deaths)} unclean end(s) within {minutes} min", **evidence)
    counts = _opened(case, {run.run_id for run in deaths})
    evidence["shared"] = [
        {"capability": capability, "span": span, "runs": runs} for (capability, span), runs in _shared(counts)
    ]
    detail = f"{_ordinal(len(deaths))} death in {minutes} min, the last one: {CAUSES[_own_cause(judge(case))]}"
    if evidence["shared"]:
        detail += f"; open in all or most of them: {_named(dict(_shared(counts)))}"
    return found(False, detail, _FIX, **evidence)


def _read(config: Config, bus: CapabilityBus | None) -> Case | CheckResult:
    """Returns what is known of the runs, or the finding that nothing is."""
    path = (config.observability.data_dir or Path()) / DATABASE
    if not path.is_file():
        return found(True, "nothing recorded yet")
    opened = opened_for(config, bus)
    try:
        case = read_case(path, () if opened is None else (opened.run_id,))
    except HearthNetError as error:
        return skipped(f"{error.message}: see telemetry_store")
    run = case.run
    if run is not None and run.end_reason is None and not run.has_box and lock_holders(path.with_name(LOCK_FILE)):
        # It lives, and has no black box: on a full disk there was no room for one.
        case = read_case(path, (run.run_id,))
    return case


def _deaths(case: Case) -> list[Run]:
    """Returns the runs that died within the window: before now while one lives, else before the last one's end."""
    if case.run is None:
        return []
    is_alive = case.runs[0] is not case.run
    until_us = now_us() if is_alive else end_us(case.run)
    ended = case.runs[case.runs.index(case.run) :]
    # A clean stop between two deaths, of somebody who tried to help, ends no loop.
    return [run for run in ended if died(run) and until_us - end_us(run) <= RESTART_LOOP_US]


def _opened(case: Case, run_ids: set[str]) -> dict[tuple[str, str | None], int]:
    """Returns in how many of the runs each capability and span was open at the end, the most frequent first."""
    pairs = {(trace.run_id, trace.capability, trace.span) for trace in _left(case, run_ids)}
    return dict(Counter((capability, span) for _, capability, span in sorted(pairs, key=str)).most_common())


def _left(case: Case, run_ids: set[str]) -> Iterator[InFlight]:
    return (trace for trace in case.in_flight if trace.run_id in run_ids)


def _shared(counts: dict[tuple[str, str | None], int]) -> list[tuple[tuple[str, str | None], int]]:
    """Returns what more than one run died in: one alone tells nothing of what they share."""
    return [(pair, runs) for pair, runs in counts.items() if runs > 1][:_MAX_LISTED]


def _named(pairs: dict[tuple[str, str | None], int]) -> str:
    shown = [capability if span is None else f"{span} of {capability}" for capability, span in list(pairs)[:_MAX_NAMED]]
    more = len(pairs) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _evidence(run: Run, verdict: Verdict, case: Case) -> dict[str, Any]:
    left = list(_left(case, {run.run_id}))
    return {
        **_told(run),
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


def _told(run: Run) -> dict[str, Any]:
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
    """Returns what one run died of, where the verdict says that it was one of many."""
    others = (cause for cause in verdict.alternatives if verdict.cause == _LOOP)
    return next(others, verdict.cause)


def _first_line(verdict: Verdict) -> str:
    # Of a kill it would only say once more that there was no end.
    return f"; {verdict.evidence[0]}" if verdict.evidence and verdict.cause != "killed" else ""


def _ordinal(number: int) -> str:
    is_teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if is_teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
