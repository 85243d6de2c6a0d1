"""Checks of what the node recorded, and of the store that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hearthnet.bus.bus import CapabilityBus
from hearthnet.checks.finding import found, skipped, warned
from hearthnet.config import Config
from hearthnet.errors import StoreError
from hearthnet.observability import metrics, orphans
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.store.quarantine import quarantined
from hearthnet.observability.store.reader import Reader
from hearthnet.observability.telemetry import DATABASE

__all__ = ["orphan_spans", "recent_error_rate", "telemetry_store"]

MAX_ERROR_RATE: Final = 0.2
MIN_TRACES: Final = 10  # fewer say nothing about a rate
_MAX_NAMES: Final = 3  # what fits a line


def recent_error_rate(config: Config, _: CapabilityBus | None) -> CheckResult:
    """Fewer than 20 % of the last 100 traces failed."""
    path = (config.observability.data_dir or Path()) / DATABASE
    if not path.is_file():
        return found(True, "nothing recorded yet", traces=0)
    reader = Reader(path)
    try:
        rows = reader.rows(
            "SELECT capability, count(*), sum(result NOT IN ('ok', 'cancelled')) AS failed"
            " FROM (SELECT capability, result FROM traces ORDER BY seq DESC LIMIT 100)"
            " GROUP BY capability ORDER BY failed DESC"
        )
    finally:
        reader.close()
    total, failed = sum(row[1] for row in rows), sum(row[2] for row in rows)
    if total < MIN_TRACES:
        return found(True, f"only {total} trace(s) so far, too few for a rate", traces=total, failed=failed)
    detail = f"{failed} of the last {total} failed ({failed / total:.0%})"
    if failed:
        detail += f", most of them {rows[0][0]}"
    return found(
        failed / total < MAX_ERROR_RATE,
        detail,
        "hearthnet trace recent 20 --failed",
        traces=total,
        failed=failed,
    )


def telemetry_store(config: Config, _: CapabilityBus | None) -> CheckResult:
    """telemetry.db can be read, and none that was damaged waits for somebody to look at it."""
    path = (config.observability.data_dir or Path()) / DATABASE
    kept = quarantined(path)
    if kept:
        detail = f"a database that could not be used was moved to {kept[-1]}; a new one was begun"
        fix = f"look at it (sqlite3 {kept[-1]}), then acknowledge: rm -r {kept[-1]}*"
        return warned(detail, fix, quarantined=str(kept[-1]))
    if not path.is_file():
        return found(True, "nothing recorded yet")
    reader = Reader(path)
    try:
        ((traces, logs, lost),) = reader.rows(
            "SELECT (SELECT count(*) FROM traces), (SELECT count(*) FROM logs),"
            " (SELECT ifnull(sum(count), 0) FROM gaps)"
        )
    except StoreError as error:
        return found(False, error.message, error.hint or "start the node: it moves a damaged store aside")
    finally:
        reader.close()
    detail = f"{traces} trace(s), {logs} log record(s), {lost} lost"
    return found(True, detail, traces=traces, logs=logs, lost=lost)


def orphan_spans(_: Config, bus: CapabilityBus | None) -> CheckResult:
    """No span was opened outside a trace, or after its trace had ended, since the node started."""
    if bus is None:
        return skipped("the node is not running")
    if metrics.disabled():
        return skipped("metrics are switched off, so nothing counts them")
    count = _total(metrics.orphan_spans_total.name)
    if not count:
        return found(True, "every span found its trace", count=0)
    names = orphans.recent_names()
    detail = f"{count} span(s) were opened outside any trace and are not stored"
    if names:
        detail += f"; the last: {', '.join(names[:_MAX_NAMES])}"
    fix = "take the context along: carry() for threads, ContextExecutor for pools; end a trace after its tasks"
    return warned(detail, fix, count=count, names=names)


def _total(name: str) -> int:
    """Returns what a counter without labels stands at."""
    for line in metrics.exposition()[0].decode().splitlines():
        if line.startswith(f"{name} "):
            return int(float(line.split()[1]))
    return 0
