"""The peer OpenTelemetry: its SDK with a span processor that batches and an exporter that only counts; its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

__all__ = ["Counter", "CountingExporter", "Spans", "Traces", "processor"]

SPANS: Final = 20
_CAPABILITY: Final = "experimental.echo"
_QUEUE_SPANS: Final = 40_000  # as many traces as our buffer holds; its own 2,048 would lose some between two turns
_DELAY_MS: Final = 1_000  # our flush interval


class CountingExporter(SpanExporter):
    """Exports nowhere: what is left is the cost of the SDK itself."""

    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Counts a batch."""
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


def processor(exporter: SpanExporter) -> BatchSpanProcessor:
    """Returns the processor between the caller and the exporter."""
    return BatchSpanProcessor(exporter, max_queue_size=_QUEUE_SPANS, schedule_delay_millis=_DELAY_MS)


class Traces:
    """Traces of the same shape as ours: a root, and a child with two attributes."""

    def __init__(self, _: Path) -> None:
        self._exporter = CountingExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(processor(self._exporter))
        self._start = self._provider.get_tracer("bench").start_as_current_span

    def run(self, messages: Sequence[str]) -> None:
        """Makes a trace for each."""
        start = self._start
        for _ in messages:
            with start(_CAPABILITY), start("handle", attributes={"model": "tiny", "size": 3}):
                pass

    def flush(self) -> None:
        """Waits until all spans are exported."""
        self._provider.force_flush()

    def close(self) -> int:
        """Ends; returns how many traces were exported whole."""
        self._provider.shutdown()
        return self._exporter.spans // 2


class Spans(Traces):
    """Traces of twenty children."""

    def run(self, messages: Sequence[str]) -> None:
        """Makes a child for each."""
        start = self._start
        for _ in range(len(messages) // SPANS):
            with start(_CAPABILITY):
                for _ in range(SPANS):
                    with start("handle", attributes={"model": "tiny", "size": 3}):
                        pass

    def close(self) -> int:
        """Ends; returns how many children were exported."""
        self._provider.shutdown()
        return self._exporter.spans * SPANS // (SPANS + 1)


class Counter:
    """A counter of the metrics SDK, read from memory."""

    def __init__(self, _: Path) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader])
        self._counter = self._provider.get_meter("bench").create_counter("bench_calls")

    def run(self, messages: Sequence[str]) -> None:
        """Counts each."""
        add = self._counter.add
        for _ in messages:
            add(1, {"capability": "llm.chat", "result": "ok"})

    def flush(self) -> None:
        """Has nothing to wait for."""

    def close(self) -> int:
        """Ends; returns the sum that is read."""
        data: Any = self._reader.get_metrics_data()
        self._provider.shutdown()
        (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
        return sum(int(point.value) for point in metric.data.data_points)
