"""Label values from outside: bounded in number and length, safe on the page, and counted when refused."""

from __future__ import annotations

import os
import threading
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from support.threads import at_once

from hearthnet.observability import metrics
from hearthnet.observability.instrument import MAX_LABEL_BYTES, MAX_SERIES, OTHER

ON = SimpleNamespace(metrics_enabled=True)


def series(name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric on the page, by their label values."""
    families = text_string_to_metric_families(metrics.exposition()[0].decode("utf-8"))
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def turned_away(name: str) -> float:
    """How many combinations of a metric's label values got no series."""
    return series("hearthnet_telemetry_label_overflow_total").get((name,), 0)


_numbers = count()


@pytest.fixture
def counter():
    """A fresh counter with two labels."""
    metrics.configure(ON)
    made = metrics.counter(f"hearthnet_test_labels_{next(_numbers)}_total", "Test.", ["kind", "size"])
    yield made
    metrics._instruments.pop(made.name.removesuffix("_total"))


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


def test_threads_lose_no_count(counter):
    """Eight threads that invent the same names side by side: the bound holds, and every count is somewhere."""

    def invent():
        for number in range(1_000):
            counter.labels(str(number), "s").inc()

    at_once(lambda _: invent(), range(8))

    found = series(counter.name)
    assert len(found) == MAX_SERIES + 1
    assert sum(found.values()) == 8_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_makes_series_though_the_lock_was_held(counter):
    """A thread that made a series at the fork is not in the child; what it held is free there."""
    with counter._lock:
        pid = os.fork()
        if pid == 0:
            thread = threading.Thread(target=lambda: counter.labels("child", "s"), daemon=True)
            thread.start()
            thread.join(10)
            os._exit(int(thread.is_alive()))
        _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_memory_of_strangers_is_bounded(counter):
    """Neither many values nor long ones are kept."""
    for number in range(5_000):
        counter.labels(f"{number}" + "x" * 5_000, "s").inc()

    kept = [text for values in (*counter._children, *counter._series) for text in values]
    assert len(kept) < 10 * MAX_SERIES
    assert max(map(len, kept)) <= MAX_LABEL_BYTES


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\udcff", "\\udcff"),
        ("a\ud800b", "a\\ud800b"),
        ("é" * 100, None),
        ("x" * 100_000, None),
        ("\0\x1b[31m", None),
        ("", ""),
        (7, "7"),
        (None, "None"),
    ],
)
def test_any_value_leaves_a_page_that_can_be_read(counter, value, shown):
    """A lone surrogate, a megabyte, control characters, what is no text: the page stays, the value is short."""
    counter.labels(value, "s").inc()
    counter.labels(value, "s").inc()

    ((label, _),) = found = series(counter.name)
    assert found[label, "s"] == 2
    assert len(label.encode()) <= MAX_LABEL_BYTES
    assert shown in (None, label)


def test_value_whose_text_raises_breaks_nothing(counter):
    """A label's value may be an object with code of its own."""

    class Bad:
        def __str__(self):
            raise RuntimeError("no")

    counter.labels(Bad(), "s").inc()

    ((label, _),) = series(counter.name)
    assert "RuntimeError" in label


def test_secrets_are_in_no_label(counter):
    """A label is on a page that everybody may read."""
    counter.labels("https://user:hunter2hunter2@example.org/", "s").inc()

    assert b"hunter2hunter2" not in metrics.exposition()[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=200), min_size=1, max_size=20))
def test_any_text_counts_and_parses(values):
    """Whatever the values are, the page is UTF-8, parses, and has every count."""
    metrics.configure(SimpleNamespace(metrics_enabled=False))
    metrics.configure(ON)
    made = metrics.counter("hearthnet_test_any_text_total", "Test.", ["kind"])
    for value in values:
        made.labels(value).inc()

    page = metrics.exposition()[0].decode("utf-8")
    lines = [line for line in page.split("\n") if line.startswith("hearthnet_test_any_text_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in lines) == len(values)


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


def test_declaring_for_a_label_that_is_not_there_is_an_error(counter):
    """A programming mistake raises at once."""
    with pytest.raises(ValueError, match="kind"):
        counter.allow("colour", ["red"])


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
