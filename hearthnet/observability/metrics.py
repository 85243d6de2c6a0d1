"""Prometheus metrics: factories for instruments, and the standard set of a node.

Instruments are made at import, and may be used at any time. From `configure` on they are on the page, which the
transport serves at `GET /metrics`; with metrics off, or without `prometheus_client`, there is no page.

    requests = counter("hearthnet_requests_total", "Calls.", ["capability", "result"])
    requests.labels(capability="llm.chat", result="ok").inc()

The factories return a `Counter`, `Gauge` or `Histogram` of this module, with the methods of those of
`prometheus_client`; `labels` returns one series with the same methods, which is kept. No call raises: one that is no
use (a negative amount, wrong labels) is counted, and logged once for each metric and method.
However many label values callers invent, an instrument has a bounded number of series: `Instrument.allow`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from hearthnet.observability.declaration import Declaration, declare
from hearthnet.observability.instrument import Counter, Gauge, Histogram, Hooks, Instrument
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.results import RESULTS
from hearthnet.observability.runtime import runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final, Protocol, TypeVar

    from hearthnet.observability.callback import Callback
    from hearthnet.observability.scrape import Registry

    AnInstrument = TypeVar("AnInstrument", bound=Instrument)

__all__ = [
    "Counter", "Gauge", "Histogram", "Instrument", "configure", "counter", "disabled", "exposition", "gauge",
    "histogram", "on_scrape", "write_textfile",
]  # fmt: skip

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


if TYPE_CHECKING:

    class MetricsConfig(Protocol):
        """The part of `ObservabilityConfig` that `configure` needs."""

        @property
        def metrics_enabled(self) -> bool:
            """Whether metrics are on."""


log = get_logger(__name__)


_instruments: dict[str, Instrument] = {}
_refused: dict[tuple[object, ...], Instrument] = {}  # declarations that cannot be on the page
_misused: set[tuple[str, str, str]] = set()  # what was logged
_on_scrape: list[Callback] = []
runtime.at_fork(_misused.clear)


def _declare(make: type[AnInstrument], name: str, doc: str, labels: object, buckets: object = None) -> AnInstrument:
    declared = declare(make.kind, name, doc, labels, buckets)
    with runtime.config_lock:
        # A counter is one metric with and without its ending.
        known = None if declared.problem else _instruments.get(declared.key)
        if known is None and not declared.problem:  # a finalizer may declare the same in between
            known = _instruments.setdefault(declared.key, make(declared, _hooks))
        if isinstance(known, make) and known.declaration.is_same(declared):
            return known
        if known is not None:
            declared = declared.refused(f"it is declared already, as a {known.kind} with labels {known.label_names}")
        refused = _refused.get(declared.identity)
        if isinstance(refused, make):
            return refused
        made = _refused[declared.identity] = make(declared, _hooks)
    if not disabled():
        _tell_refused(declared)
    return made


def _tell_refused(declared: Declaration) -> None:
    log.error("metric cannot be registered", extra={"metric": declared.name, "error": declared.problem})


def _count_overflow(name: str) -> None:
    """Counts a combination of label values that got no series of its own."""
    if name != telemetry_label_overflow_total.name:  # it would count itself without end
        telemetry_label_overflow_total.labels(name).inc()


def _count_misuse(name: str, method: str, error: Exception) -> None:
    """Counts a call that was refused, and logs the first of its kind with the place that it came from."""
    telemetry_metric_misuse_total.labels(name).inc()
    kind = (name, method, type(error).__name__)
    if kind not in _misused and len(_misused) < _MAX_TOLD:
        _misused.add(kind)
        log.warning(
            "metric misused", extra={"metric": name, "method": method, "error": error}, stack_info=True, stacklevel=4
        )


_MAX_TOLD: Final = 1_000
_OURS: Final = "hearthnet_"
_hooks: Final = Hooks(_count_overflow, _count_misuse)


def counter(name: str, doc: str, labels: Sequence[str] = ()) -> Counter:
    """Returns the counter of that name, made on first use.

    A declaration that cannot be on the page (the name is taken by a metric of another kind or with other labels, a
    label's name is reserved …) is logged; its instrument counts for itself.
    """
    return _declare(Counter, name, doc, labels)


def gauge(name: str, doc: str, labels: Sequence[str] = ()) -> Gauge:
    """Returns the gauge of that name; see `counter`."""
    return _declare(Gauge, name, doc, labels)


def histogram(name: str, doc: str, labels: Sequence[str] = (), buckets: Sequence[float] | None = None) -> Histogram:
    """Returns the histogram of that name; `buckets` are upper bounds in its unit. See `counter`."""
    return _declare(Histogram, name, doc, labels, buckets)


def configure(config: MetricsConfig) -> None:
    """Puts every instrument on the page, from 0 on, or takes the page away where metrics are off.

    Idempotent: a second call leaves the page and its counts alone. Starts no server.
    """
    with runtime.config_lock:
        wanted = config.metrics_enabled and _is_installed()
        if wanted != (runtime.registry is not None):
            _begin_anew(_new_registry() if wanted else None)


def _begin_anew(registry: Registry | None) -> None:
    runtime.registry = registry
    for instrument in list(_instruments.values()):
        instrument.begin_anew()
    for refused in list(_refused.values()) if registry is not None else ():
        _tell_refused(refused.declaration)


runtime.at_reset(lambda: _begin_anew(None))


def _is_installed() -> bool:
    try:
        import prometheus_client  # noqa: F401  # only to see whether it is installed
    except ImportError:
        return False
    except Exception:  # installed, and broken
        log.exception("metrics are disabled")
        return False
    return True


def _new_registry() -> Registry:
    from hearthnet.observability.scrape import Registry

    return Registry()


def disabled() -> bool:
    """Returns whether there is no page: metrics are off, not configured, or `prometheus_client` is missing."""
    return runtime.registry is None


def on_scrape(refresh: Callable[[], object]) -> Callable[[], None]:
    """Calls `refresh` before each scrape, to set gauges; returns a function that ends this. Its bounds: `callback`."""
    from hearthnet.observability.callback import Callback  # late: only a page needs it

    callback = Callback(refresh)
    _on_scrape.append(callback)
    return lambda: _on_scrape.remove(callback) if callback in _on_scrape else None


def exposition(accept: str = "", *, is_own: bool = False) -> tuple[bytes, str]:
    """Returns all metrics, and the content type. Takes milliseconds: not for a loop.

    Args:
        accept: an `Accept` header. OpenMetrics, which has exemplars, where it asks for that; else the Prometheus text
            format.
        is_own: without HearthNet's own metrics, whose names begin with `hearthnet_`.
    """
    registry = runtime.registry
    if registry is None:
        return b"# metrics are disabled\n", "text/plain; version=0.0.4; charset=utf-8"
    from hearthnet.observability import scrape

    if not is_own:
        _refresh()
    chosen = scrape.negotiate(accept)
    return scrape.page(registry, _shown(is_own=is_own), chosen), chosen.content_type


def write_textfile(path: str | Path) -> bool:
    """Writes the program's own metrics for the textfile collector of Prometheus's node_exporter, atomically.

    For programs that end before anything could scrape them. HearthNet's own metrics and those of the process are not in
    the file: several programs would have the same ones, and the collector refuses a series that is there twice. The
    file is readable by every user (mode 0644), for the collector is another. An earlier one is replaced.

    Args:
        path: in the folder that the collector reads; it takes names that end in `.prom` alone.

    Returns:
        Whether it was written. If not, why is logged.
    """
    try:
        if not os.fspath(path).endswith(".prom"):
            raise ValueError("the collector takes files that end in .prom")
        if runtime.registry is None:
            raise ValueError("metrics are disabled")
        # Late: no other call needs files, and importing `pathlib` takes longer than this module.
        from pathlib import Path

        from hearthnet.files import replace_readable
        from hearthnet.observability import scrape

        text = scrape.page(scrape.Registry(is_empty=True), _shown(is_own=True), scrape.TEXT)
        replace_readable(Path(path), text)
    except (OSError, ValueError, TypeError) as error:
        log.warning("metrics cannot be written", extra={"path": path, "error": error})
        return False
    return True


def _shown(*, is_own: bool) -> list[Instrument]:
    made = list(_instruments.copy().values())
    return [one for one in made if not one.name.startswith(_OURS)] if is_own else made


def _refresh() -> None:
    from hearthnet.observability.callback import call_all

    owners = _on_scrape.copy()
    call_all(owners)
    for owner in owners:
        try:
            owner.result()
        except Exception:  # one failing owner must not hide the other metrics
            log.exception("gauges cannot be refreshed")


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
telemetry_exported_total = counter(
    "hearthnet_telemetry_exported_total", "Records accepted by the OTLP backend.", ["kind"]
)
telemetry_export_failed_total = counter(
    "hearthnet_telemetry_export_failed_total",
    "Records that the OTLP backend will never have, by reason; of a partial success, its spans.",
    ["kind", "reason"],
)
telemetry_export_lag_seconds = gauge(
    "hearthnet_telemetry_export_lag_seconds",
    "Age of the oldest record that waits for the OTLP export; 0: there is none.",
)
trace_headers_rejected_total = counter(
    "hearthnet_trace_headers_rejected_total",
    "Headers of calls that named no valid trace, or more than one.",
    ["header"],
)
orphan_spans_total = counter("hearthnet_telemetry_orphan_spans_total", "Spans opened outside any trace.")
telemetry_label_overflow_total = counter(
    "hearthnet_telemetry_label_overflow_total",
    "Combinations of label values counted under `other`: their metric has its maximum of series.",
    ["metric"],
)
telemetry_metric_misuse_total = counter(
    "hearthnet_telemetry_metric_misuse_total",
    "Calls of metrics that were refused: a negative amount, wrong labels …",
    ["metric"],
)
doctor_check_status = gauge(
    "hearthnet_doctor_check_status",
    "The doctor's checks as this node last ran them: 0 pass or skip, 1 warn, 2 fail.",
    ["check"],
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
