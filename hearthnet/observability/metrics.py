"""Prometheus metrics: factories for instruments, and the standard set of a node.

Instruments are made at import. They do nothing until `configure` binds them to a registry, which the transport serves
at `GET /metrics`; with metrics off, or without `prometheus_client`, they never do.

    requests = counter("hearthnet_requests_total", "Calls.", ["capability", "result"])
    requests.labels(capability="llm.chat", result="ok").inc()

A child (`labels(…)`) is kept, and its methods are those of `prometheus_client` itself once bound: 0.3 us an `inc`.
However many label values callers invent, an instrument has a bounded number of series: `Instrument.allow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from hearthnet.observability.instrument import Instrument
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.results import RESULTS
from hearthnet.observability.runtime import runtime

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Instrument", "configure", "counter", "disabled", "exposition", "gauge", "histogram", "on_scrape"]

# Milliseconds, from a cache hit to a long response of a language model on a Raspberry Pi.
DURATION_BUCKETS_MS: Final = (
    1,
    2.5,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000,
    120_000,
)


class MetricsConfig(Protocol):
    """The part of `ObservabilityConfig` that `configure` needs."""

    @property
    def metrics_enabled(self) -> bool:
        """Whether metrics are on."""


log = get_logger(__name__)

_instruments: dict[str, Instrument] = {}
_on_scrape: list[Callable[[], None]] = []


def _declare(
    kind: str, name: str, doc: str, labels: Sequence[str], buckets: Sequence[float] | None = None
) -> Instrument:
    with runtime.config_lock:
        # A counter is one metric with and without its ending: the library itself adds it.
        key = name.removesuffix("_total")
        known = _instruments.get(key)
        if known is not None:
            declared = (kind, tuple(labels), None if buckets is None else tuple(buckets))
            if (known.kind, known.label_names, known.buckets) != declared:
                raise ValueError(f"{name} is declared already, as a {known.kind} with labels {known.label_names}")
            return known
        instrument = _instruments[key] = Instrument(kind, name, doc, labels, buckets, _count_overflow)
        if runtime.registry is not None:
            _bind(instrument)
        return instrument


def _count_overflow(name: str) -> None:
    """Counts a combination of label values that got no series of its own."""
    if name != telemetry_label_overflow_total.name:  # it would count itself without end
        telemetry_label_overflow_total.labels(name).inc()


def counter(name: str, doc: str, labels: Sequence[str] = ()) -> Instrument:
    """Returns the counter of that name, made on first use.

    Raises:
        ValueError: raised when the name is taken by a metric of another kind or with other labels.
    """
    return _declare("counter", name, doc, labels)


def gauge(name: str, doc: str, labels: Sequence[str] = ()) -> Instrument:
    """Returns the gauge of that name; see `counter`."""
    return _declare("gauge", name, doc, labels)


def histogram(name: str, doc: str, labels: Sequence[str] = (), buckets: Sequence[float] | None = None) -> Instrument:
    """Returns the histogram of that name; `buckets` are upper bounds in its unit. See `counter`."""
    return _declare("histogram", name, doc, labels, buckets)


def configure(config: MetricsConfig) -> None:
    """Binds every instrument to a registry, or unbinds them where metrics are off.

    Idempotent: a second call leaves the registry and its counts alone. Starts no server.
    """
    with runtime.config_lock:
        wanted = config.metrics_enabled and _is_installed()
        if wanted != (runtime.registry is not None):
            _bind_all(_new_registry() if wanted else None)


def _bind_all(registry: CollectorRegistry | None) -> None:
    runtime.registry = registry
    for instrument in _instruments.values():
        _bind(instrument)


runtime.at_reset(lambda: _bind_all(None))


def _bind(instrument: Instrument) -> None:
    """Binds an instrument; logs one that the library refuses (a malformed name, say), which does nothing."""
    try:
        instrument.bind(runtime.registry)
    except ValueError as error:
        log.error("metric cannot be registered", extra={"metric": instrument.name, "error": str(error)})


def _is_installed() -> bool:
    try:
        import prometheus_client  # noqa: F401  # only to see whether it is installed
    except ImportError:
        return False
    return True


def _new_registry() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

    # A `_created` series beside each counter doubles the page and says nothing that the run's start does not.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def disabled() -> bool:
    """Returns whether instruments do nothing: metrics are off, not configured, or `prometheus_client` is missing."""
    return runtime.registry is None


def on_scrape(refresh: Callable[[], None]) -> Callable[[], None]:
    """Calls `refresh` before each scrape, to set gauges; returns a function that ends this."""
    _on_scrape.append(refresh)
    return lambda: _on_scrape.remove(refresh) if refresh in _on_scrape else None


def exposition() -> tuple[bytes, str]:
    """Returns all metrics in the Prometheus text format, and its content type. Takes milliseconds: not for a loop."""
    if runtime.registry is None:
        return b"# metrics are disabled\n", "text/plain; version=0.0.4; charset=utf-8"
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

    for refresh in _on_scrape.copy():
        try:
            refresh()
        except Exception:  # one failing owner must not hide the other metrics
            log.exception("gauges cannot be refreshed")
    return generate_latest(runtime.registry), CONTENT_TYPE_PLAIN_0_0_4


# The standard set. Each is updated by the code that owns the fact.
requests_total = counter("hearthnet_requests_total", "Calls of capabilities, by result.", ["capability", "result"])
requests_total.allow("result", RESULTS)
request_duration_ms = histogram(
    "hearthnet_request_duration_ms",
    "How long calls took, in milliseconds.",
    ["capability"],
    DURATION_BUCKETS_MS,
)
active_streams = gauge("hearthnet_active_streams", "Streams open now.", ["capability"])
nodes_online = gauge("hearthnet_nodes_online", "Members seen within 90 s, this node included.", ["community"])
event_log_size = gauge("hearthnet_event_log_size", "Events in the community's log.", ["community"])
event_log_lamport_head = gauge(
    "hearthnet_event_log_lamport_head", "Highest Lamport time in the community's log.", ["community"]
)
emergency_mode = gauge("hearthnet_emergency_mode", "1 for the state that the node is in, else 0.", ["state"])
blob_storage_bytes = gauge("hearthnet_blob_storage_bytes", "Size of the blobs folder.")
llm_tokens_generated_total = counter(
    "hearthnet_llm_tokens_generated_total", "Tokens that language models generated.", ["model", "backend"]
)
llm_concurrent = gauge("hearthnet_llm_concurrent", "Calls of a language model running now.", ["model"])
capability_health_success_rate = gauge(
    "hearthnet_capability_health_success_rate",
    "Share of the last 100 calls that succeeded.",
    ["capability", "node"],
)
rate_limited_total = counter(
    "hearthnet_rate_limited_total", "Calls refused for being too many.", ["capability", "reason"]
)
signature_failures_total = counter(
    "hearthnet_signature_failures_total", "Calls refused for their signature or caller.", ["reason"]
)

refused_total = counter(
    "hearthnet_refused_total", "Requests and connections refused before the bus sees them.", ["reason"]
)

# Telemetry's own health.
telemetry_queued = gauge("hearthnet_telemetry_queued", "Records not committed yet.", ["kind"])
telemetry_lag_seconds = gauge("hearthnet_telemetry_lag_seconds", "Age of the oldest pending record; 0: there is none.")
telemetry_written_total = counter("hearthnet_telemetry_written_total", "Records committed.", ["kind"])
telemetry_dropped_total = counter("hearthnet_telemetry_dropped_total", "Records dropped.", ["reason"])
telemetry_flush_seconds = histogram(
    "hearthnet_telemetry_flush_seconds", "How long commits took.", (), (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10)
)
telemetry_flush_failures_total = counter(
    "hearthnet_telemetry_flush_failures_total", "Commits that failed and will be repeated, by reason.", ["reason"]
)
telemetry_recovered_total = counter(
    "hearthnet_telemetry_recovered_total", "Records recovered from black boxes of other runs.", ["kind"]
)
telemetry_commits_total = counter("hearthnet_telemetry_commits_total", "Transactions committed.")
telemetry_fsyncs_total = counter("hearthnet_telemetry_fsyncs_total", "Syncs to the disk: a commit 1, a checkpoint 2.")
telemetry_disk_written_bytes_total = counter(
    "hearthnet_telemetry_disk_written_bytes_total", "Bytes of database and WAL written to the disk."
)
telemetry_disk_bytes = gauge("hearthnet_telemetry_disk_bytes", "Bytes of telemetry's files on disk.", ["part"])
orphan_spans_total = counter("hearthnet_telemetry_orphan_spans_total", "Spans opened outside any trace.")
telemetry_label_overflow_total = counter(
    "hearthnet_telemetry_label_overflow_total",
    "Combinations of label values counted under `other`: their metric has its maximum of series.",
    ["metric"],
)
log_repeats_total = counter(
    "hearthnet_log_repeats_total", "Log records dropped by sampling: counted, not stored one by one.", ["level"]
)
event_loop_lag_seconds = gauge(
    "hearthnet_event_loop_lag_seconds", "The largest delay of the event loop within the last minute."
)
event_loop_stalls_total = counter(
    "hearthnet_event_loop_stalls_total", "Times the event loop was stuck for stall_s, by cause.", ["cause"]
)
