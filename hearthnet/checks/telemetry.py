"""Checks of the recorded traces: the error rate, and spans opened outside a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from hearthnet.checks.results import MAX_NAMES, found, skipped, warned
from hearthnet.config import Config
from hearthnet.display import counted
from hearthnet.errors import StoreError
from hearthnet.forensics.evidence.entries import plain
from hearthnet.observability import metrics, telemetry
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.records.results import CALLERS_ERRORS, is_failure
from hearthnet.observability.records.stored import TraceRecord
from hearthnet.observability.store.reader import Reader, TraceFilter
from hearthnet.observability.traces.span import recent_orphans

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["opened_for", "orphan_spans", "recent_error_rate"]

MAX_ERROR_RATE: Final = 0.2
TRACES: Final = 100
_MAX_LISTED: Final = 10
_MAX_ERROR_CHARS: Final = 80


def recent_error_rate(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """Fewer than 20 % of the node's last 100 traces failed, those not counted that failed by the caller's error."""
    path = (config.observability.data_dir or Path()) / telemetry.DATABASE
    opened = opened_for(config, bus)
    pending = [] if opened is None else opened.pending()  # before the query: see Reader.newest
    if not pending and not path.is_file():
        return found(True, "nothing recorded yet", traces=0, failed=0)
    try:
        records = _last(path, pending)
    except StoreError as error:
        return skipped(f"{error.message}: see telemetry_store")
    callers = Counter(record.result for record in records if _is_callers(record))
    failures = [record for record in records if is_failure(record.result) and not _is_callers(record)]
    failed, counting = len(failures), len(records) - callers.total()
    rate = failed / max(1, counting)
    evidence = {"traces": len(records), "failed": failed, "rate": rate, **_failures_in(records, failures)}
    evidence["callers_errors"] = dict(callers.most_common())
    detail = f"{failed} of the last {counting} failed ({rate:.0%}){_format_worst(evidence)}"
    fix = f"hearthnet trace recent {TRACES} --failed"
    return found(rate < MAX_ERROR_RATE, detail + _format_callers(evidence["callers_errors"]), fix, **evidence)


def _is_callers(record: TraceRecord) -> bool:
    """Returns whether a call failed by its caller's mistake or wish, so that it is no sign of this node's health."""
    if record.result in CALLERS_ERRORS:
        return True
    extras = orjson.loads(record.extras) if is_failure(record.result) else {}
    return isinstance(extras, dict) and bool(extras.get("asked_for"))


def _format_callers(results: dict[str, int]) -> str:
    if not results:
        return ""
    listed = ", ".join(f"{result} ({count})" for result, count in islice(results.items(), MAX_NAMES))
    return f"; besides, {counted(sum(results.values()), 'call')} failed by the caller's own error: {listed}"


def opened_for(config: Config, bus: CapabilityBus | None) -> telemetry.Telemetry | None:
    """Returns the telemetry of the node running in this process, or None if there is only the disk to read."""
    opened = telemetry.opened()
    if bus is None or opened is None or opened.data_dir != config.observability.data_dir:
        return None
    return opened


def _last(path: Path, pending: list[TraceRecord]) -> list[TraceRecord]:
    if not path.is_file():  # the node keeps records in memory only
        return pending[: -TRACES - 1 : -1]
    reader = Reader(path)
    try:
        # Of a store without a node, all.
        return reader.newest(pending, TRACES, TraceFilter(of_node=reader.has_node()))
    finally:
        reader.close()


def _failures_in(records: Sequence[TraceRecord], failures: Sequence[TraceRecord]) -> dict[str, Any]:
    """Returns the capabilities that failed most and the most frequent errors, with counts."""
    calls = Counter(record.capability for record in records)
    failed = Counter(record.capability for record in failures)
    errors = Counter(map(_error, failures))
    return {
        "worst": [
            {"capability": capability, "count": calls[capability], "failed": count}
            for capability, count in failed.most_common(_MAX_LISTED)
        ],
        "errors": [{"error": error, "count": count} for error, count in errors.most_common(_MAX_LISTED)],
        "trace_ids": [record.trace_id for record in failures[:MAX_NAMES]],
    }


def _error(record: TraceRecord) -> str:
    """Returns a trace's error without its variable parts, so that equal errors can be counted."""
    text = plain(" ".join((record.error or "").split()))[:_MAX_ERROR_CHARS]
    return record.result if text in ("", record.result) else f"{record.result}: {text}"


def _format_worst(evidence: dict[str, Any]) -> str:
    if not evidence["failed"]:
        return ""
    worst = [f"{item['capability']} ({item['failed']} of {item['count']})" for item in evidence["worst"][:MAX_NAMES]]
    errors = [f"{item['error']} ({item['count']})" for item in evidence["errors"][:MAX_NAMES]]
    return f": {', '.join(worst)}; with {', '.join(errors)}"


def orphan_spans(_: Config, bus: CapabilityBus | None) -> CheckResult:
    """Since the node started, no span was opened outside a trace or after its trace had ended."""
    if bus is None:
        return skipped("the node is not running")
    if metrics.disabled():
        return skipped("metrics are disabled, so orphan spans are not counted")
    count = _total(metrics.orphan_spans_total.name)
    if not count:
        return found(True, "no orphan spans", count=0)
    names = recent_orphans()
    detail = f"{counted(count, 'span')} opened outside any trace and not stored"
    if names:
        detail += f"; the last: {', '.join(names[:MAX_NAMES])}"
    fix = "pass the context on: carry() for threads, ContextExecutor for pools; end a trace after its tasks"
    return warned(detail, fix, count=count, names=names)


def _total(name: str) -> int:
    """Returns the value of a counter without labels."""
    for line in metrics.exposition()[0].decode().splitlines():
        if line.startswith(f"{name} "):
            return int(float(line.split()[1]))
    return 0
