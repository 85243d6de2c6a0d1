"""The same with OpenTelemetry: traces wait in its queue while its exporter waits for an answer.

Called by `benchmarks.memory`: `python -m benchmarks.memory_peer`. Prints one JSON document.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import click
import orjson
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from benchmarks.hot_otel import CountingExporter, processor
from benchmarks.memory_child import PENDING, rollup
from benchmarks.records import CAPABILITY

__all__ = ["main"]

_SPANS: Final = 2  # of a trace


class HeldExporter(CountingExporter):
    """Exports nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Waits, then counts a batch."""
        self.go.wait()
        return super().export(spans)


def main() -> dict[str, Any]:
    """Runs one turn."""
    exporter = HeldExporter()
    provider = TracerProvider()
    provider.add_span_processor(processor(exporter))
    start = provider.get_tracer("bench").start_as_current_span
    sizes: dict[str, Any] = {"ring": rollup()}
    for _ in range(PENDING["trace"]):
        with start(CAPABILITY), start("handle", attributes={"model": "tiny", "size": 3}):
            pass
    sizes["traces"] = rollup()
    exporter.go.set()
    provider.shutdown()
    return {**sizes, "expected": {"trace": PENDING["trace"]}, "arrived": {"trace": exporter.spans // _SPANS}}


if __name__ == "__main__":
    click.echo(orjson.dumps(main()))
