"""The peer Logfire: nothing is sent or printed; its spans go to the exporter that only counts, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import logfire

from benchmarks.hot_otel import SPANS, CountingExporter, processor

__all__ = ["Spans", "Traces"]

_CAPABILITY: Final = "experimental.echo"


class Traces:
    """Traces of the same shape as ours: a root, and a child with two attributes."""

    def __init__(self, folder: Path) -> None:
        self._exporter = CountingExporter()
        logfire.configure(
            send_to_logfire=False,
            console=False,
            metrics=False,
            config_dir=folder,  # not a project's that lies around
            additional_span_processors=[processor(self._exporter)],
        )

    def run(self, messages: Sequence[str]) -> None:
        """Makes a trace for each."""
        span = logfire.span
        for _ in messages:
            with span(_CAPABILITY), span("handle", model="tiny", size=3):
                pass

    def flush(self) -> None:
        """Waits until all spans are exported."""
        logfire.force_flush()

    def close(self) -> int:
        """Ends; returns how many traces were exported whole."""
        logfire.shutdown()
        return self._exporter.spans // 2


class Spans(Traces):
    """Traces of twenty children."""

    def run(self, messages: Sequence[str]) -> None:
        """Makes a child for each."""
        span = logfire.span
        for _ in range(len(messages) // SPANS):
            with span(_CAPABILITY):
                for _ in range(SPANS):
                    with span("handle", model="tiny", size=3):
                        pass

    def close(self) -> int:
        """Ends; returns how many children were exported."""
        logfire.shutdown()
        return self._exporter.spans * SPANS // (SPANS + 1)
