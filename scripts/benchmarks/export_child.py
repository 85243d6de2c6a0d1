"""One turn of one contender in a process of its own: exports 10,000 traces by OTLP and measures how late a loop wakes.

Prints one JSON document. Called by `benchmarks.export`: `python -m benchmarks.export_child CONTENDER URL FOLDER`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any, Final

import click
import orjson

from benchmarks.records import CAPABILITY, make_trace
from benchmarks.stats import percentile

__all__ = ["CONTENDERS", "TRACES", "main"]

TRACES: Final = 10_000  # the ring
_BATCH: Final = 512  # spans, as the SDK's processor has it
_SLEEP_S: Final = 0.001
_WAIT_S: Final = 120.0
_IDLE_S: Final = 3.0  # at the least: a p99 of fewer lags is noise

Export = Callable[[], int]


def ours(url: str, folder: Path) -> Export:
    """Returns what exports a store with these traces; what it needs is imported."""
    from hearthnet.config import ObservabilityConfig
    from hearthnet.observability import telemetry
    from hearthnet.observability.otel.export import protobuf
    from hearthnet.observability.otel.export.exporter import Exporter
    from hearthnet.observability.otel.export.settings import read

    recording = telemetry.open(
        ObservabilityConfig(data_dir=folder / "data", log_dir=folder / "logs", log_level="warning")
    )
    recording.start()
    for _ in range(TRACES):
        make_trace()
    recording.flush(_WAIT_S)
    settings, thread = read(url, {}), recording._thread  # noqa: SLF001  # measured alone
    assert protobuf is not None
    assert settings is not None
    assert thread is not None
    exporter = Exporter(
        thread.path,
        settings,
        thread.cursors,
        lambda: thread.pacer.wake(at_once=True, skip_gap=True, one_commit=True),
        recording.run_id,
    )

    def sent() -> int:
        return sum(line.counts.sent for route, line in exporter._lines if route.signal == "traces")  # noqa: SLF001

    def export() -> int:
        exporter.start()
        ends_at = perf_counter() + _WAIT_S
        while perf_counter() < ends_at and sent() < TRACES:
            threading.Event().wait(0.1)  # each look is CPU, too
        exporter.stop(1.0)
        return sent()

    return export


def peer(url: str, _: Path) -> Export:
    """Returns what exports the same spans from memory, with the SDK's exporter."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    spans: list[ReadableSpan] = []

    class Memory(SpanExporter):
        def export(self, some: Sequence[ReadableSpan]) -> SpanExportResult:
            spans.extend(some)
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Memory()))
    start = provider.get_tracer("bench").start_as_current_span
    for _ in range(TRACES):
        with start(CAPABILITY), start("handle", attributes={"model": "tiny", "size": 3}):
            pass
    sender = OTLPSpanExporter(endpoint=f"{url}/v1/traces")

    def export() -> int:
        sent = 0
        for first in range(0, len(spans), _BATCH):
            some = spans[first : first + _BATCH]
            sent += len(some) if sender.export(some) is SpanExportResult.SUCCESS else 0
        return sent // 2  # each trace has two

    return export


CONTENDERS: Final[dict[str, Callable[[str, Path], Export]]] = {"ours": ours, "peer": peer}


async def _watch(lags: list[float]) -> None:
    """Sleeps again and again and notes how much longer that took than asked for, in milliseconds."""
    while True:
        asked = perf_counter()
        await asyncio.sleep(_SLEEP_S)
        lags.append((perf_counter() - asked - _SLEEP_S) * 1e3)


async def _measure(export: Export) -> tuple[int, float, float, list[float], list[float]]:
    """Returns the traces sent, CPU seconds of all threads but the loop's, wall seconds; lags after it and meanwhile."""
    lags: list[float] = []
    watcher = asyncio.create_task(_watch(lags))
    cpu, started = process_time() - thread_time(), perf_counter()
    sent = await asyncio.to_thread(export)
    cpu, took = process_time() - thread_time() - cpu, perf_counter() - started
    busy = sorted(lags)
    lags.clear()
    await asyncio.sleep(max(took, _IDLE_S))
    watcher.cancel()
    return sent, cpu, took, sorted(lags), busy


def main(name: str, url: str, folder: Path) -> dict[str, Any]:
    """Runs one turn; returns CPU and wall seconds, p50 and p99 of the lag with and without it in ms, traces sent."""
    sent, cpu_s, took_s, idle, busy = asyncio.run(_measure(CONTENDERS[name](url, folder)))
    return {
        "cpu_s": cpu_s,
        "took_s": took_s,
        "p50": percentile(busy, 0.5),
        "p99": percentile(busy, 0.99),
        "idle_p50": percentile(idle, 0.5),
        "idle_p99": percentile(idle, 0.99),
        "sent": sent,
    }


if __name__ == "__main__":
    click.echo(orjson.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
