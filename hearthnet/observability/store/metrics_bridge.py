"""Copies the store's state and counts to the metrics page, each time that the page is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hearthnet.observability import logging as node_logging
from hearthnet.observability import metrics
from hearthnet.observability.logs import messages
from hearthnet.observability.runtime import runtime

if TYPE_CHECKING:
    from hearthnet.observability.records.blackbox import BlackBox
    from hearthnet.observability.store.writer import Writer

__all__ = ["MetricsBridge"]


class MetricsBridge:
    """Keeps the metrics of one store, which outlive its writers and its box."""

    def __init__(self) -> None:
        self._counted: dict[str, int] = {}

    def refresh(
        self,
        waiting: tuple[int, int, float],
        box: BlackBox | None,
        writer: Writer | None,
        disk_bytes: dict[str, int],
    ) -> None:
        """Updates the metrics.

        Args:
            waiting: traces and log records that are not committed, and the age of the oldest in seconds.
            box: of this process.
            writer: of the store.
            disk_bytes: bytes on disk by part of the budget.
        """
        traces, logs, lag_s = waiting
        metrics.telemetry_queued.labels(kind="trace").set(traces)
        metrics.telemetry_queued.labels(kind="log").set(logs)
        metrics.telemetry_lag_seconds.set(lag_s)
        for part, size in disk_bytes.items():
            metrics.telemetry_disk_bytes.labels(part=part).set(size)
        for level, repeats in messages.dropped_by_level().items():
            self._raise_to(f"repeats {level}", repeats, metrics.log_repeats_total.labels(level).inc)
        self._refresh_drops(box)
        if writer is not None and (written := writer.quota.written_bytes()) is not None:
            self._raise_to("written", written, metrics.telemetry_disk_written_bytes_total.inc)

    def _refresh_drops(self, box: BlackBox | None) -> None:
        totals = {"log_file": node_logging.dropped_lines(), "log_set_up": node_logging.missed_records()}
        if (file := node_logging.log_file()) is not None:
            totals["log_shed"] = file.shed_lines
        if (journal := runtime.journal) is not None:
            totals["journal"] = journal.dropped
        if box is not None:
            totals |= {"box": box.failures, "in_flight_table_full": box.overflow}
        for reason, total in totals.items():
            self._raise_to(reason, total, metrics.telemetry_dropped_total.labels(reason=reason).inc)

    def _raise_to(self, name: str, total: int, inc: Callable[[float], None]) -> None:
        """Raises a counter to a total that is counted elsewhere; the total may start again at 0."""
        with runtime.lock:  # two scrapes at once must not both add the difference
            added = max(0, total - self._counted.get(name, 0))
            self._counted[name] = total
        inc(added)
