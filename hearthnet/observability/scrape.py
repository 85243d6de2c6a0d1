"""One scrape: collects every metric and renders the page, by `prometheus_client`.

One bad metric never costs the page. Whatever a function or a collector raises, whatever cannot be rendered, and
whatever has a name or labels a second time costs itself alone, and is logged once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from hearthnet.observability.callback import Callback, call_all
from hearthnet.observability.declaration import printable
from hearthnet.observability.instrument import ExemplarAt, GaugeSeries, Instrument, Sample
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.record import clean_text
from hearthnet.observability.redaction.rules import REDACTED, is_told

__all__ = ["OPENMETRICS", "TEXT", "Format", "Registry", "negotiate", "page"]

log = get_logger(__name__)

_EOF: Final = b"# EOF\n"
_MAX_EXEMPLAR_CHARS: Final = 128  # of its labels together, by the format
# Names that a family takes beside its own, by its type.
_ENDINGS: Final = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "summary": ("_sum", "_count", "_created"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
    "info": ("_info",),
}


class Format(NamedTuple):
    """A format of the page."""

    content_type: str
    render: Callable[[Any], bytes]
    ending: bytes


TEXT: Final = Format(CONTENT_TYPE_PLAIN_0_0_4, generate_latest, b"")
OPENMETRICS: Final = Format(
    "application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics.generate_latest, _EOF
)


class Registry(CollectorRegistry):
    """Collectors of others and that of the process, each called with a deadline, and isolated from the others.

    Args:
        is_empty: without the collector of the process.
    """

    def __init__(self, *, is_empty: bool = False) -> None:
        self._collectors: dict[Collector, Callback] = {}
        self._told: set[tuple[str, str]] = set()
        super().__init__()
        if not is_empty:
            ProcessCollector(registry=self)

    def register(self, collector: Collector) -> None:
        """Adds a collector; see `CollectorRegistry`."""
        super().register(collector)
        self._collectors[collector] = Callback(lambda: list(collector.collect()))

    def unregister(self, collector: Collector) -> None:
        """Removes a collector; see `CollectorRegistry`."""
        super().unregister(collector)
        del self._collectors[collector]

    def families(self) -> Iterator[Metric]:
        """Calls the collectors, and yields their metrics."""
        collectors = self._collectors.copy()
        call_all(collectors.values())
        for collector, callback in collectors.items():
            try:
                yield from callback.result()
            except Exception as error:  # noqa: BLE001
                self.tell(type(collector).__name__, error)

    def tell(self, name: str, error: Exception) -> None:
        """Logs why something is not on the page, once."""
        known = (name, type(error).__name__)
        if known not in self._told:
            self._told.add(known)
            log.warning("metric is not on the page", extra={"metric": name, "error": error}, exc_info=error)


def page(registry: Registry, instruments: Iterable[Instrument], chosen: Format) -> bytes:
    """Returns the page of all metrics."""
    instruments = list(instruments)
    call_all(_callbacks(instruments))
    own = (_family(instrument, registry) for instrument in instruments)
    taken: set[str] = set()
    parts = []
    # The process's own metrics first: an instrument cannot take their names.
    for family in chain(registry.families(), own):
        try:
            parts.append(_rendered(family, chosen, taken))
        except Exception as error:  # noqa: BLE001
            registry.tell(str(getattr(family, "name", "")), error)
    return b"".join(parts) + chosen.ending


def _callbacks(instruments: list[Instrument]) -> Iterator[Callback]:
    for instrument in instruments:
        for _, series in instrument.series():
            if isinstance(series, GaugeSeries) and series.callback is not None:
                yield series.callback


class _One(NamedTuple):
    """A registry of one family."""

    family: Metric

    def collect(self) -> tuple[Metric]:
        return (self.family,)


def _rendered(family: Metric, chosen: Format, taken: set[str]) -> bytes:
    """Returns a family as text.

    Raises:
        ValueError: raised when the names or the samples are there already.
    """
    names = {family.name, *(family.name + ending for ending in _ENDINGS.get(family.type, ()))}
    if not taken.isdisjoint(names):
        raise ValueError("another metric has its name")
    samples = {(sample.name, *sorted(sample.labels.items())) for sample in family.samples}
    if len(samples) < len(family.samples):
        raise ValueError("two samples have the same labels")
    text = chosen.render(_One(family)).removesuffix(_EOF).decode()
    taken |= names
    return printable(text).encode()


def _family(instrument: Instrument, registry: Registry) -> Metric:
    """Returns an instrument's series; those whose function failed are missing."""
    name = instrument.declaration.key if instrument.kind == "counter" else instrument.name
    made: Metric = _FAMILIES[instrument.kind](name, instrument.doc, labels=instrument.label_names)
    for values, series in instrument.series():
        try:
            _add(made, values, series.samples())
        except Exception as error:  # noqa: BLE001
            registry.tell(instrument.name, error)
    return made


_FAMILIES: Final[dict[str, type[Any]]] = {
    "counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily,
}  # fmt: skip


def _add(family: Any, labels: tuple[str, ...], samples: list[Sample]) -> None:
    if isinstance(family, HistogramMetricFamily):
        *buckets, total = samples
        bounds: list[Any] = [
            (floatToGoString(item.le), item.value, _exemplar(item.exemplar))  # type: ignore[no-untyped-call]
            for item in buckets
        ]
        family.add_metric(labels, bounds, total.value)
    elif isinstance(family, CounterMetricFamily):
        family.add_metric(labels, samples[0].value, exemplar=_exemplar(samples[0].exemplar))
    else:
        family.add_metric(labels, samples[0].value)


def _exemplar(found: ExemplarAt | None) -> Exemplar | None:
    """Returns an exemplar as the format has it; None for one that does not fit: its sample is worth more."""
    if found is None:
        return None
    try:
        labels = {str(name): printable(clean_text(value)) for name, value in found.labels.items()}
        labels |= {name: REDACTED for name, value in labels.items() if is_told(name, value)}
    except Exception:  # a mapping of the caller's  # noqa: BLE001
        return None
    is_named = all(name.isidentifier() and name.isascii() for name in labels)
    is_short = sum(len(name) + len(value) for name, value in labels.items()) <= _MAX_EXEMPLAR_CHARS
    return Exemplar(labels, found.amount, found.at_s) if is_named and is_short else None


def negotiate(accept: str) -> Format:
    """Returns the format that an `Accept` header prefers: OpenMetrics only if it is named and not worth less than text.

    Between two that are worth the same, and named both, text is chosen; so it is where the header fits neither.
    """
    ranges = [_media_range(item) for item in accept.split(",")]
    open_q = max((q for kind, version, q in ranges if kind == _OPEN and version in ("", "1.0.0")), default=0.0)
    named = [q for kind, version, q in ranges if kind == _PLAIN and version in ("", "0.0.4")]
    if named:
        return OPENMETRICS if open_q > max(named) else TEXT
    by_group = [q for kind, _, q in ranges if kind == "text/*"] or [q for kind, _, q in ranges if kind == "*/*"]
    return OPENMETRICS if open_q > 0 and open_q >= max(by_group, default=0.0) else TEXT


_OPEN: Final = "application/openmetrics-text"
_PLAIN: Final = "text/plain"


def _media_range(item: str) -> tuple[str, str, float]:
    """Returns the type, the version and the quality of a media range; a quality that is no number is 0."""
    kind, *given = item.split(";")
    pairs = [parameter.partition("=") for parameter in given]
    parameters = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
    try:
        q = float(parameters.get("q", "1"))
    except ValueError:
        q = 0.0
    return kind.strip().lower(), parameters.get("version", ""), q if 0 <= q <= 1 else 0.0
