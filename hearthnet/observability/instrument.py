"""Instruments: named metrics, each with a bounded number of series, chosen by label values.

The numbers are kept here; `prometheus_client` only renders them. Its own series have plain locks, for which a finalizer
or a signal handler that counts would wait for ever if its thread is counting; and where `PROMETHEUS_MULTIPROC_DIR` is
inherited they write files. These have one re-entrant lock for each metric, and are the same with metrics on, off and
not installed.

Nothing here raises into the program that counts. An amount is whatever `float()` accepts; any other is refused, as is
one that the series cannot take, and wrong labels get a series that is on no page: both are reported (`Hooks`).

Some label values come from outside. A new series gets them as safe text of at most 64 bytes, without secrets: all
values under a secret's name share one series, unless they are declared. Values that are not among those declared for a
label (`allow`) become `other`; beyond `MAX_SERIES` series a new combination is counted under `other` and reported. A
known series is found by one lookup.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from inspect import iscoroutinefunction
from math import inf
from time import perf_counter, time
from types import TracebackType

from hearthnet.observability.declaration import MAX_LABEL_BYTES, Declaration, label_value
from hearthnet.observability.records.tracked import tracked
from hearthnet.observability.redaction.rules import REDACTED, is_told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Self, TypeVar

    from hearthnet.observability.callback import Callback

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = [
    "MAX_SERIES", "OTHER", "Around", "Counter", "CounterSeries", "ExemplarAt", "Gauge", "GaugeSeries", "Histogram",
    "HistogramSeries", "Hooks", "Instrument", "Sample", "Series",
]  # fmt: skip

OTHER: Final = "other"  # every label value without a series of its own
MAX_SERIES: Final = 200  # of an instrument; series of declared values alone are not counted: their number is known
_MAX_SPELLINGS: Final = 2 * MAX_SERIES  # further combinations, as callers spelled them, that are found as fast


Refuse = Callable[[str, Exception], None]
Exemplar = Mapping[str, str]


class ExemplarAt:
    """Labels that lead from a sample to one call, a trace id mostly; its amount, and when: UTC seconds."""

    __slots__ = ("amount", "at_s", "labels")

    def __init__(self, labels: Exemplar, amount: float, at_s: float) -> None:
        self.labels = labels
        self.amount = amount
        self.at_s = at_s


class Sample:
    """One number of a series.

    Args:
        part: which number it is, "value", "bucket" or "sum".
        value: the number.
        le: the upper bound of a histogram's bucket.
        exemplar: of a counter, or a bucket.
    """

    __slots__ = ("exemplar", "le", "part", "value")

    def __init__(self, part: str, value: float, le: float | None = None, exemplar: ExemplarAt | None = None) -> None:
        self.part = part
        self.value = value
        self.le = le
        self.exemplar = exemplar


class _Labelled:
    """The lock of a metric with labels, which has no number of its own: it lets no caller in."""

    def __enter__(self) -> None:
        raise ValueError("it has labels: choose a series with labels()")

    def __exit__(self, *_: object) -> None:
        """Is never called."""


class Series:
    """One series: a number under a lock. `refuse` is called with the method's name and the error."""

    __slots__ = ("_bounds", "_guard", "_refuse", "_value")

    def __init__(self, guard: AbstractContextManager[Any], refuse: Refuse, bounds: tuple[float, ...] = ()) -> None:
        self._guard = guard
        self._refuse = refuse
        self._bounds = bounds
        self._value = 0.0
        self.restart()

    def restart(self) -> None:
        """Makes the series as it is when new."""
        self._value = 0.0

    def guard_with(self, guard: AbstractContextManager[Any]) -> None:
        """Replaces the lock: in a forked child."""
        self._guard = guard

    def samples(self) -> list[Sample]:
        """Returns its numbers at present."""
        return [Sample("value", self._value)]


class CounterSeries(Series):
    """One series of a counter."""

    __slots__ = ("_exemplar",)

    _exemplar: ExemplarAt | None

    def restart(self) -> None:
        """Makes the series as it is when new."""
        self._value = 0.0
        self._exemplar = None

    def inc(self, amount: float = 1, exemplar: Exemplar | None = None) -> None:
        """Adds an amount of 0 or more; `exemplar` has labels of the call that it was, a trace id say."""
        try:
            step = float(amount)
            if not 0 <= step < inf:
                raise ValueError("a counter only rises, by finite amounts")
            with self._guard:
                self._value += step
            if exemplar is not None:
                self._exemplar = ExemplarAt(exemplar, step, time())
        except Exception as error:  # `amount` may be anything  # noqa: BLE001
            self._refuse("inc", error)

    def reset(self) -> None:
        """Sets it to 0, for a program that begins anew within its process."""
        self.restart()

    def count_exceptions(self, exception: type[BaseException] | tuple[type[BaseException], ...] = Exception) -> Around:
        """Counts the exceptions of these types that a `with` block or decorated function raises."""

        def count(_: object, error: BaseException | None) -> None:
            try:
                if error is not None and isinstance(error, exception):
                    self.inc()
            except TypeError as problem:
                self._refuse("count_exceptions", problem)

        return Around(lambda: None, count)

    def samples(self) -> list[Sample]:
        """Returns its number at present."""
        return [Sample("value", self._value, exemplar=self._exemplar)]


class GaugeSeries(Series):
    """One series of a gauge."""

    __slots__ = ("callback",)

    callback: Callback | None  # calls the function that gives the value

    def restart(self) -> None:
        """Sets it to 0; a function that gives the value stays."""
        self._value = 0.0
        self.callback = getattr(self, "callback", None)

    def inc(self, amount: float = 1) -> None:
        """Adds an amount."""
        try:
            step = float(amount)
            with self._guard:
                self._value += step
        except Exception as error:  # noqa: BLE001
            self._refuse("inc", error)

    def dec(self, amount: float = 1) -> None:
        """Takes an amount away."""
        try:
            step = float(amount)
            with self._guard:
                self._value -= step
        except Exception as error:  # noqa: BLE001
            self._refuse("dec", error)

    def set(self, value: float) -> None:
        """Sets the value."""
        try:
            number = float(value)
            with self._guard:
                self._value = number
        except Exception as error:  # noqa: BLE001
            self._refuse("set", error)

    def set_to_current_time(self) -> None:
        """Sets it to the time now, in seconds since 1970, UTC."""
        self.set(time())

    def set_function(self, function: Callable[[], float]) -> None:
        """Has `function` give the value at each scrape, whatever is set; see `callback` for its bounds."""
        from hearthnet.observability.callback import Callback  # late: few gauges compute their value

        try:
            with self._guard:
                if not callable(function):
                    raise TypeError(f"{type(function).__name__} is no function")
                self.callback = Callback(lambda: float(function()))
        except Exception as error:  # noqa: BLE001
            self._refuse("set_function", error)

    def track_inprogress(self) -> Around:
        """Adds 1 while a `with` block or a decorated function runs."""
        return Around(self.inc, lambda *_: self.dec())

    def time(self) -> Around:
        """Sets it to the seconds that a `with` block or a decorated function took."""
        return Around(perf_counter, lambda began, _: self.set(perf_counter() - began))

    def samples(self) -> list[Sample]:
        """Returns its value; of a function, what it returned when it was last called.

        Raises:
            Exception: raised when the function raised it, or hangs.
        """
        return [Sample("value", self._value if self.callback is None else self.callback.result())]


class HistogramSeries(Series):
    """One series of a histogram."""

    __slots__ = ("_counts", "_exemplars", "_find")

    _find: Callable[[tuple[float, ...], float], int]  # the bucket of an amount

    def restart(self) -> None:
        """Makes the series as it is when new."""
        self._value = 0.0  # the sum
        self._counts = [0] * (len(self._bounds) + 1)
        self._exemplars: dict[int, ExemplarAt] = {}  # the last of each bucket that has one
        self._find = self._find_first

    def _find_first(self, bounds: tuple[float, ...], number: float) -> int:
        from bisect import bisect_left  # late: most programs that import this observe nothing of their own

        self._find = bisect_left
        return bisect_left(bounds, number)

    def observe(self, amount: float, exemplar: Exemplar | None = None) -> None:
        """Counts a finite amount in its bucket, in the metric's unit; `exemplar`: as of a counter."""
        try:
            number = float(amount)
            if not -inf < number < inf:
                raise ValueError("a histogram takes finite amounts")
            at = self._find(self._bounds, number)
            with self._guard:
                self._counts[at] += 1
                self._value += number
            if exemplar is not None:
                self._exemplars[at] = ExemplarAt(exemplar, number, time())
        except Exception as error:  # noqa: BLE001
            self._refuse("observe", error)

    def time(self) -> Around:
        """Observes the seconds that a `with` block or a decorated function took."""
        return Around(perf_counter, lambda began, _: self.observe(perf_counter() - began))

    def samples(self) -> list[Sample]:
        """Returns the buckets, each with all that is at most its bound, and the sum."""
        with self._guard:
            counts, total = self._counts.copy(), self._value
        found, below = [], 0
        for at, (bound, count) in enumerate(zip((*self._bounds, inf), counts, strict=True)):
            below += count
            found.append(Sample("bucket", below, bound, self._exemplars.get(at)))
        return [*found, Sample("sum", total)]


class Around:
    """Does something before and after: of a `with` block, or of each call of a function, a coroutine function too.

    Args:
        begin: called before; its result is the first argument of `end`.
        end: called after, with the exception as its second argument; None: there was none.
    """

    def __init__(self, begin: Callable[[], Any], end: Callable[[Any, BaseException | None], object]) -> None:
        self._begin: Final = begin
        self._end: Final = end
        self._begun: list[Any] = []

    def __enter__(self) -> Self:
        self._begun.append(self._begin())
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._end(self._begun.pop(), error)

    def __call__(self, function: F) -> F:
        """Returns the function with this around each call."""
        if iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with Around(self._begin, self._end):
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            with Around(self._begin, self._end):
                return function(*args, **kwargs)

        return called  # type: ignore[return-value]


class Hooks:
    """Called with the metric's name.

    Attributes:
        overflow: for each new combination of label values that got no series.
        misuse: for each call that was refused, with the method's name and the error.
    """

    __slots__ = ("misuse", "overflow")

    def __init__(self, overflow: Callable[[str], None], misuse: Callable[[str, str, Exception], None]) -> None:
        self.overflow = overflow
        self.misuse = misuse


class Instrument(Series):
    """A named metric. Without labels it is its own only series."""

    kind = ""

    def __init__(self, declaration: Declaration, hooks: Hooks) -> None:
        self.declaration: Final = declaration
        self.name: Final = declaration.name
        self.label_names: Final = declaration.labels
        self.buckets: Final = declaration.buckets
        self._hooks: Final = hooks
        self._lock = threading.RLock()
        self._allowed: dict[str, set[str]] = {}
        self._uncleaned: dict[str, list[str]] = {}  # values that were allowed since
        self._series: dict[tuple[str, ...], Series] = {}
        self._children: dict[tuple[object, ...], Series] = {}  # the same, by the callers' spelling
        self._undeclared = 0  # series with an undeclared value
        super().__init__(_Labelled() if self.label_names else self._lock, self._misused, declaration.buckets)
        self._unshown = self._new()  # for callers with wrong labels
        tracked.add(self)

    @property
    def doc(self) -> str:
        """One sentence for the page."""
        return self.declaration.doc

    @abstractmethod
    def _new(self) -> Series:
        """Returns a new series."""

    def _misused(self, method: str, error: Exception) -> None:
        self._hooks.misuse(self.name, method, error)

    def allow(self, label: str, values: Iterable[str]) -> None:
        """Declares values of a label: from the first call on, all that were not declared are counted as `other`.

        Series that there are stay. Those of declared values alone are always made.
        """
        label = dict(zip(self.declaration.spelled, self.label_names, strict=True)).get(label, label)
        if label not in self.label_names:
            return self._misused("allow", self._wrong_labels())
        declared = [value if type(value) is str else label_value(value) for value in values]
        with self._lock:
            self._uncleaned.setdefault(label, []).extend(declared)
            self._children.clear()  # what was `other` until now may have its own series from now on
        return None

    def labels(self, *values: object, **named: object) -> Series:
        """Returns the series with these label values, by position or by name; see `allow` for which one that is.

        A value is its text: of bytes what they spell, of anything else `str()`.
        """
        if named:
            missing = self.declaration.spelled[len(values) :]
            if named.keys() != set(missing):
                return self._find_child(())
            values += tuple([named[name] for name in missing])
        try:
            child = self._children.get(values)
        except Exception:  # a list, which has no hash, or an object that raises  # noqa: BLE001
            child = None
        return self._find_child(values) if child is None else child

    def _wrong_labels(self) -> ValueError:
        return ValueError(f"its labels are: {', '.join(self.label_names) or 'none'}")

    def _find_child(self, values: tuple[object, ...]) -> Series:
        if not values or len(values) != len(self.label_names):
            if not self.declaration.problem:
                self._misused("labels", self._wrong_labels())
            return self._unshown
        kept = tuple([self._kept(name, value) for name, value in zip(self.label_names, values, strict=True)])
        with self._lock:
            child = self._series.get(kept)
            is_refused = child is None and not self._has_room(kept)
            if is_refused:
                kept = tuple([self._declared(name, value) for name, value in zip(self.label_names, kept, strict=True)])
                child = self._series.get(kept)
            if child is None:
                child = self._make_child(kept)
            self._remember(values, child)
        if is_refused:
            self._hooks.overflow(self.name)
        return child

    def _kept(self, label: str, value: object) -> str:
        """Returns a label's value as its series has it."""
        text = label_value(value)
        allowed = self._allowed_of(label)
        if allowed is not None:  # what the program itself declares is no secret
            return text if text in allowed else OTHER
        return REDACTED if is_told(label, text) else text

    def _declared(self, label: str, value: str) -> str:
        """Returns a label's value where there is no space for new ones: only a declared value stays."""
        return value if value in (self._allowed_of(label) or ()) else OTHER

    def _allowed_of(self, label: str) -> set[str] | None:
        """Returns the declared values of a label, if it has any.

        They are cleaned here, not by `allow`: modules call that at import, where nothing is compiled yet.
        """
        if label in self._uncleaned:
            with self._lock:
                if (added := self._uncleaned.get(label)) is not None:
                    self._allowed.setdefault(label, {OTHER}).update(map(label_value, added))
                    self._uncleaned.pop(label, None)  # last: another thread waits for the lock as long as it is there
        return self._allowed.get(label)

    def _is_declared(self, values: tuple[str, ...]) -> bool:
        return all(self._declared(name, value) == value for name, value in zip(self.label_names, values, strict=True))

    def _has_room(self, values: tuple[str, ...]) -> bool:
        return self._undeclared < MAX_SERIES or self._is_declared(values)

    def _make_child(self, values: tuple[str, ...]) -> Series:
        """Makes a series; returns that of a finalizer or signal handler that made it in between, if there is one."""
        made = self._new()
        child = self._series.setdefault(values, made)
        if child is made:
            self._undeclared += not self._is_declared(values)
        return child

    def _remember(self, values: tuple[object, ...], child: Series) -> None:
        """Caches the series under the caller's spelling; long values are not cached, they may be an attacker's."""
        if all(type(value) is str and len(value) <= MAX_LABEL_BYTES for value in values):
            if len(self._children) >= _MAX_SPELLINGS + len(self._series):
                self._children.clear()
            self._children[values] = child

    def remove(self, *values: object) -> None:
        """Removes the series with these label values, by position; a new one begins at 0."""
        if not values or len(values) != len(self.label_names):
            return self._misused("remove", self._wrong_labels())
        return self.remove_by_labels(dict(zip(self.declaration.spelled, values, strict=True)))

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        """Removes the series that have these values of these labels, and any of the others."""
        try:
            at = {self.declaration.spelled.index(name): value for name, value in labels.items()}
        except Exception as error:  # no mapping, or no label of the metric  # noqa: BLE001
            return self._misused("remove_by_labels", error)
        wanted = [(index, self._kept(self.label_names[index], value)) for index, value in at.items()]
        with self._lock:
            for values in self._series.copy() if wanted else ():
                if all(values[index] == text for index, text in wanted) and self._series.pop(values, None) is not None:
                    self._undeclared -= not self._is_declared(values)
            self._children.clear()
        return None

    def clear(self) -> None:
        """Removes all series of a metric with labels."""
        with self._lock:
            self._series.clear()
            self._children.clear()
            self._undeclared = 0

    def series(self) -> list[tuple[tuple[str, ...], Series]]:
        """Returns the series with their label values."""
        # A copy: a finalizer that makes a series may run in the middle of a loop.
        return list(self._series.copy().items()) if self.label_names else [((), self)]

    def begin_anew(self) -> None:
        """Sets every series to 0."""
        for _, series in self.series():
            series.restart()

    def renew_in_child(self) -> None:
        """Makes a new lock."""
        self._lock = threading.RLock()
        self._unshown.guard_with(self._lock)
        for _, series in self.series():
            series.guard_with(self._lock)


class Counter(Instrument, CounterSeries):
    """A metric that only rises."""

    kind = "counter"

    if TYPE_CHECKING:

        def labels(self, *values: object, **named: object) -> CounterSeries:
            """Returns the series with these label values: see `Instrument.labels`."""

    def _new(self) -> CounterSeries:
        return CounterSeries(self._lock, self._misused)


class Gauge(Instrument, GaugeSeries):
    """A metric that rises and falls."""

    kind = "gauge"

    if TYPE_CHECKING:

        def labels(self, *values: object, **named: object) -> GaugeSeries:
            """Returns the series with these label values: see `Instrument.labels`."""

    def _new(self) -> GaugeSeries:
        return GaugeSeries(self._lock, self._misused)


class Histogram(Instrument, HistogramSeries):
    """A metric that counts amounts by size."""

    kind = "histogram"

    if TYPE_CHECKING:

        def labels(self, *values: object, **named: object) -> HistogramSeries:
            """Returns the series with these label values: see `Instrument.labels`."""

    def _new(self) -> HistogramSeries:
        return HistogramSeries(self._lock, self._misused, self.buckets)
