"""The peer prometheus_client, used directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import prometheus_client

__all__ = ["Counter"]


class Counter:
    """A counter whose series is chosen at each call."""

    def __init__(self, _: Path) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._counter = prometheus_client.Counter(
            "bench_calls", "Calls.", ["capability", "result"], registry=self._registry
        )

    def run(self, messages: Sequence[str]) -> None:
        """Counts each."""
        counter = self._counter
        for _ in messages:
            counter.labels(capability="llm.chat", result="ok").inc()

    def flush(self) -> None:
        """Has nothing to wait for."""

    def close(self) -> int:
        """Ends; returns what the registry holds."""
        labels = {"capability": "llm.chat", "result": "ok"}
        return int(self._registry.get_sample_value("bench_calls_total", labels) or 0)
