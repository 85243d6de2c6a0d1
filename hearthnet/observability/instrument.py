"""An instrument: a named metric and a bounded number of series, chosen by label values.

Some label values come from outside. A new series gets them as safe text of at most 64 bytes; values that are not among
those declared for a label (`allow`) become `other`; beyond `MAX_SERIES` series a new combination is counted under
`other` and reported. A known series is found by one lookup.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from hearthnet.observability.records.record import clean_text
from hearthnet.observability.records.tracked import tracked

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["MAX_LABEL_BYTES", "MAX_SERIES", "OTHER", "Child", "Instrument"]

OTHER: Final = "other"  # every label value without a series of its own
MAX_SERIES: Final = 200  # of an instrument; series of declared values alone are not counted: their number is known
MAX_LABEL_BYTES: Final = 64
_MAX_SPELLINGS: Final = 2 * MAX_SERIES  # further combinations, as callers spelled them, that are found as fast


def _nothing(_amount: float = 1) -> None:
    """Replaces every method of an instrument that is not bound."""


class Child:
    """One series of an instrument: `inc`, `dec` and `set` take a number, `observe` a value in the metric's unit."""

    __slots__ = ("dec", "inc", "observe", "set")

    inc: Callable[..., None]
    dec: Callable[..., None]
    set: Callable[..., None]
    observe: Callable[..., None]

    def __init__(self) -> None:
        self.bind(None)

    def bind(self, series: Any) -> None:
        """Makes the methods those of a `prometheus_client` series; None: methods that do nothing."""
        for method in self.__slots__:
            setattr(self, method, getattr(series, method, _nothing))


class Instrument:
    """A named metric. Without labels it is its own only series.

    Args:
        kind: `counter`, `gauge` or `histogram`.
        name: of the metric.
        doc: one sentence for the page.
        labels: names of the labels.
        buckets: of a histogram, upper bounds in its unit; None: the library's.
        on_overflow: called with the metric's name for each new combination of label values that got no series.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        doc: str,
        labels: Sequence[str],
        buckets: Sequence[float] | None,
        on_overflow: Callable[[str], None],
    ) -> None:
        self.kind = kind
        self.name = name
        self.doc = doc
        self.label_names = tuple(labels)
        self.buckets = None if buckets is None else tuple(buckets)
        self._on_overflow = on_overflow
        self._metric: Any = None
        self._allowed: dict[str, set[str]] = {}
        self._series: dict[tuple[str, ...], Child] = {}
        self._children: dict[tuple[str, ...], Child] = {}  # the same, by the callers' spelling
        self._undeclared = 0  # series with an undeclared value
        self._own = Child()
        self._lock = threading.RLock()
        tracked.add(self)

    @property
    def inc(self) -> Callable[..., None]:
        """Adds to the only series."""
        return self._only().inc

    @property
    def dec(self) -> Callable[..., None]:
        """Takes from the only series of a gauge."""
        return self._only().dec

    @property
    def set(self) -> Callable[..., None]:
        """Sets the only series of a gauge."""
        return self._only().set

    @property
    def observe(self) -> Callable[..., None]:
        """Adds a value to the only series of a histogram."""
        return self._only().observe

    def _only(self) -> Child:
        if self.label_names:
            raise ValueError(f"{self.name} has the labels {self.label_names}: choose a series with labels()")
        return self._own

    def allow(self, label: str, values: Iterable[str]) -> None:
        """Declares values of a label: from the first call on, all that were not declared are counted as `other`.

        Series that there are stay. Those of declared values alone are always made.

        Raises:
            ValueError: raised when the metric has no such label.
        """
        if label not in self.label_names:
            raise ValueError(f"{self.name} has the labels {self.label_names}")
        with self._lock:
            self._allowed.setdefault(label, {OTHER}).update(_safe(value) for value in values)
            self._children.clear()  # what stood as `other` may have its own series from now on

    def labels(self, *values: str, **named: str) -> Child:
        """Returns the series with these label values, by position or by name; see `allow` for which one that is.

        Raises:
            ValueError: raised when the labels are not those that the instrument was made with.
        """
        if named:
            missing = self.label_names[len(values) :]
            if named.keys() != set(missing):
                raise ValueError(f"{self.name} has the labels {self.label_names}")
            values += tuple(named[name] for name in missing)
        child = self._children.get(values)
        return self._find_child(values) if child is None else child

    def _find_child(self, values: tuple[str, ...]) -> Child:
        if not values or len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}")
        kept = tuple(self._kept(name, value) for name, value in zip(self.label_names, values, strict=True))
        with self._lock:
            child = self._series.get(kept)
            is_refused = child is None and not self._has_room(kept)
            if is_refused:
                kept = tuple(self._declared(name, value) for name, value in zip(self.label_names, kept, strict=True))
                child = self._series.get(kept)
            if child is None:
                child = self._make_child(kept)
            self._remember(values, child)
        if is_refused:
            self._on_overflow(self.name)
        return child

    def _kept(self, label: str, value: object) -> str:
        """Returns a label's value as its series has it."""
        text = _safe(value)
        allowed = self._allowed.get(label)
        return text if allowed is None or text in allowed else OTHER

    def _declared(self, label: str, value: str) -> str:
        """Returns a label's value where there is no space for new ones: only a declared value stays."""
        return value if value in self._allowed.get(label, ()) else OTHER

    def _is_declared(self, values: tuple[str, ...]) -> bool:
        return all(self._declared(name, value) == value for name, value in zip(self.label_names, values, strict=True))

    def _has_room(self, values: tuple[str, ...]) -> bool:
        return self._undeclared < MAX_SERIES or self._is_declared(values)

    def _make_child(self, values: tuple[str, ...]) -> Child:
        child = self._series[values] = Child()
        child.bind(self._bound(values))
        self._undeclared += not self._is_declared(values)
        return child

    def _remember(self, values: tuple[str, ...], child: Child) -> None:
        """Caches the series under the caller's spelling; long values are not cached, they may be an attacker's."""
        if all(type(value) is str and len(value) <= MAX_LABEL_BYTES for value in values):
            if len(self._children) >= _MAX_SPELLINGS + len(self._series):
                self._children.clear()
            self._children[values] = child

    def _bound(self, values: tuple[str, ...]) -> Any:
        return None if self._metric is None else self._metric.labels(*values)

    def bind(self, registry: CollectorRegistry | None) -> None:
        """Registers the metric and binds all its series; None unbinds them."""
        with self._lock:
            self._metric = None if registry is None else self._make(registry)
            if not self.label_names:
                self._own.bind(self._metric)
            for values, child in self._series.items():
                child.bind(self._bound(values))

    def _make(self, registry: CollectorRegistry) -> Any:
        import prometheus_client

        metric_type = getattr(prometheus_client, self.kind.capitalize())
        more = {"buckets": self.buckets} if self.buckets else {}
        return metric_type(self.name, self.doc, self.label_names, registry=registry, **more)

    def renew_in_child(self) -> None:
        """Makes a new lock."""
        self._lock = threading.RLock()


def _safe(value: object) -> str:
    return clean_text(value, MAX_LABEL_BYTES)
