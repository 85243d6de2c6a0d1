"""Series of label values from outside: bounded in number, by what is declared, and removed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.reading import series

from hearthnet.observability import metrics
from hearthnet.observability.declaration import MAX_LABEL_BYTES
from hearthnet.observability.instrument import MAX_SERIES, OTHER

ON = SimpleNamespace(metrics_enabled=True)


def turned_away(name: str) -> float:
    """How many combinations of a metric's label values got no series."""
    return series("hearthnet_telemetry_label_overflow_total").get((name,), 0)


def test_strangers_cannot_grow_series_without_end(counter):
    """Ten thousand invented values make no more series than the bound and `other`; no count is dropped."""
    for number in range(10_000):
        counter.labels(f"k{number}", "s").inc()

    found = series(counter.name)
    assert len(found) == MAX_SERIES + 1
    assert found["k0", "s"] == 1
    assert found[OTHER, OTHER] == 10_000 - MAX_SERIES
    assert sum(found.values()) == 10_000
    assert turned_away(counter.name) == 10_000 - MAX_SERIES


def test_combination_that_is_turned_away_again_is_counted_once(counter):
    """Combinations are counted, not calls."""
    for number in range(MAX_SERIES):
        counter.labels(str(number), "s")
    for _ in range(50):
        counter.labels("late", "s").inc()

    assert turned_away(counter.name) == 1
    assert series(counter.name)[OTHER, OTHER] == 50


def test_memory_of_strangers_is_bounded(counter):
    """Neither many values nor long ones are kept."""
    for number in range(5_000):
        counter.labels(f"{number}" + "x" * 5_000, "s").inc()

    kept = [text for values in (*counter._children, *counter._series) for text in values]
    assert len(kept) < 10 * MAX_SERIES
    assert max(map(len, kept)) <= MAX_LABEL_BYTES


def test_only_declared_values_have_series(counter):
    """Where values are declared all others are `other`, which is no overflow: it was meant so."""
    counter.allow("kind", ["a", "b"])
    for kind in ("a", "b", "c", "d", OTHER):
        counter.labels(kind, "s").inc()

    assert series(counter.name) == {("a", "s"): 1, ("b", "s"): 1, (OTHER, "s"): 3}
    assert turned_away(counter.name) == 0


def test_value_declared_later_gets_its_series(counter):
    """What stood as `other` until a module offered it counts as itself from then on."""
    counter.allow("kind", ["a"])
    counter.labels("late", "s").inc()
    counter.allow("kind", ["late"])
    counter.labels("late", "s").inc(5)

    assert series(counter.name) == {(OTHER, "s"): 1, ("late", "s"): 5}


def test_declared_values_are_kept_when_there_is_no_room(counter):
    """A flood in one label does not hide which of our own capabilities it hit."""
    counter.allow("kind", ["ours"])
    for number in range(2 * MAX_SERIES):
        counter.labels("ours", str(number)).inc()

    found = series(counter.name)
    assert found["ours", OTHER] == MAX_SERIES
    assert len(found) == MAX_SERIES + 1


def test_declared_combinations_always_have_room(counter):
    """More of our own than the bound for strangers: each has its series."""
    counter.allow("kind", [f"k{number}" for number in range(MAX_SERIES)])
    counter.allow("size", ["s", "l"])
    for number in range(MAX_SERIES):
        for size in ("s", "l"):
            counter.labels(f"k{number}", size).inc()

    assert len(series(counter.name)) == 2 * MAX_SERIES
    assert turned_away(counter.name) == 0


def test_results_of_calls_are_declared():
    """A result that is no word of the contract makes no series."""
    metrics.configure(ON)
    metrics.requests_total.labels("other", "made-up").inc()

    assert ("other", "made-up") not in series("hearthnet_requests_total")
    assert series("hearthnet_requests_total")["other", OTHER] == 1


def test_series_made_before_the_registry_are_bounded_too():
    """Off or not configured yet, an instrument keeps as little; what it kept counts once the registry is there."""
    made = metrics.counter("hearthnet_test_before_total", "Test.", ["kind"])
    for number in range(1_000):
        made.labels(str(number)).inc()
    metrics.configure(ON)
    made.labels("999").inc()

    assert len(series("hearthnet_test_before_total")) == MAX_SERIES + 1
    assert series("hearthnet_test_before_total")[OTHER,] == 1


def test_overflow_of_the_overflow_counter_ends():
    """More metrics that overflow than it may have series: it does not count itself without end."""
    metrics.configure(ON)
    made = metrics.telemetry_label_overflow_total
    room = MAX_SERIES - made._undeclared
    try:
        for number in range(room + 5):
            made.labels(f"m{number}").inc()
        assert series(made.name)[OTHER,] == 5
    finally:
        made._series.clear()
        made._children.clear()
        made._undeclared = 0


def test_removed_series_is_gone_and_makes_space(counter):
    """Removing by position or by name takes the series from the page; a new one begins at 0, within the bound."""
    for number in range(MAX_SERIES):
        counter.labels(str(number), "s").inc()
    counter.remove("0", "s")
    counter.remove("never", "s")
    counter.remove_by_labels({"kind": 1})
    counter.remove_by_labels({})
    counter.labels("0", "s").inc(7)
    counter.labels("new", "s").inc()

    found = series(counter.name)
    assert found["0", "s"] == 7
    assert found["new", "s"] == 1
    assert (OTHER, OTHER) not in found
    assert ("1", "s") not in found
    counter.remove_by_labels({"size": "s"})
    assert series(counter.name) == {}
    assert counter._undeclared == 0


def test_cleared_metric_begins_anew(counter):
    """All series go; a kept one counts on, for nothing that is shown."""
    kept = counter.labels("a", "s")
    for number in range(MAX_SERIES):
        counter.labels(str(number), "s")
    counter.clear()
    kept.inc()

    assert series(counter.name) == {}
    counter.labels("a", "s").inc(3)
    assert series(counter.name) == {("a", "s"): 3}


@pytest.mark.parametrize("labels", [{"colour": "red"}, None, 7, ["kind"]])
def test_removing_by_wrong_labels_removes_nothing(counter, labels):
    """A name that is no label of the metric is a misuse, not an error."""
    counter.labels("a", "s").inc()
    counter.remove_by_labels(labels)

    assert series(counter.name) == {("a", "s"): 1}
    assert series("hearthnet_telemetry_metric_misuse_total")[counter.name,] == 1
