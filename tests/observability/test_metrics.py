"""Metrics: instruments work before, after and without a registry; the standard set is complete."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hearthnet.observability import metrics

ON = SimpleNamespace(metrics_enabled=True)
OFF = SimpleNamespace(metrics_enabled=False)

STANDARD = {
    "hearthnet_requests_total": ("counter", ("capability", "result")),
    "hearthnet_request_duration_ms": ("histogram", ("capability",)),
    "hearthnet_active_streams": ("gauge", ("capability",)),
    "hearthnet_nodes_online": ("gauge", ("community",)),
    "hearthnet_event_log_size": ("gauge", ("community",)),
    "hearthnet_event_log_lamport_head": ("gauge", ("community",)),
    "hearthnet_emergency_mode": ("gauge", ("state",)),
    "hearthnet_blob_storage_bytes": ("gauge", ()),
    "hearthnet_llm_tokens_generated_total": ("counter", ("model", "backend")),
    "hearthnet_llm_concurrent": ("gauge", ("model",)),
    "hearthnet_capability_health_success_rate": ("gauge", ("capability", "node")),
    "hearthnet_rate_limited_total": ("counter", ("capability", "reason")),
    "hearthnet_signature_failures_total": ("counter", ("reason",)),
}


def value(name: str, **labels: str) -> float | None:
    """Reads a sample the way Prometheus does: by parsing the page."""
    page = metrics.exposition()[0].decode()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


@pytest.mark.parametrize(("name", "expected"), STANDARD.items())
def test_standard_metric_is_declared(name, expected):
    """Each metric of the spec exists with its kind and labels."""
    instrument = metrics._instruments[name.removesuffix("_total")]

    assert (instrument.kind, instrument.label_names) == expected


def test_instrument_made_before_configure_counts_after_it():
    """A series made at import binds with the registry; earlier counts are discarded."""
    series = metrics.counter("hearthnet_test_early_total", "Test.", ["kind"]).labels(kind="a")
    series.inc()
    metrics.configure(ON)
    series.inc(2)

    assert value("hearthnet_test_early_total", kind="a") == 2


def test_configure_twice_keeps_the_counts():
    """A second `configure` changes nothing; switching off and on begins anew."""
    metrics.configure(ON)
    series = metrics.counter("hearthnet_test_kept_total", "Test.", ["kind"]).labels("a")
    series.inc()
    metrics.configure(ON)
    assert value("hearthnet_test_kept_total", kind="a") == 1

    metrics.configure(OFF)
    series.inc()
    metrics.configure(ON)
    assert value("hearthnet_test_kept_total", kind="a") == 0


def test_instruments_without_labels_and_of_every_kind():
    """A gauge sets, a histogram observes into its buckets, a counter counts."""
    metrics.configure(ON)
    metrics.gauge("hearthnet_test_level", "Test.").set(3)
    metrics.gauge("hearthnet_test_level", "Test.").dec()
    metrics.histogram("hearthnet_test_wait_ms", "Test.", buckets=[1, 10]).observe(5)

    assert value("hearthnet_test_level") == 2
    assert value("hearthnet_test_wait_ms_bucket", le="1.0") == 0
    assert value("hearthnet_test_wait_ms_bucket", le="10.0") == 1


def test_disabled_instruments_do_nothing():
    """With metrics off every call works, and the page says so."""
    metrics.configure(OFF)
    metrics.counter("hearthnet_test_off_total", "Test.", ["kind"]).labels("a").inc()

    assert metrics.disabled()
    assert metrics.exposition()[0] == b"# metrics are disabled\n"


def test_missing_library_disables_metrics():
    """Without `prometheus_client` the code works and every instrument does nothing."""
    script = """
import sys
sys.modules["prometheus_client"] = None
from types import SimpleNamespace
from hearthnet.observability import metrics
metrics.configure(SimpleNamespace(metrics_enabled=True))
metrics.requests_total.labels("a.b", "ok").inc()
metrics.blob_storage_bytes.set(1)
print(metrics.disabled(), metrics.exposition()[0].decode(), end="")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "True # metrics are disabled\n"


@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c"), ()])
def test_wrong_number_of_labels_is_an_error(labels):
    """A programming mistake raises at once, with metrics on or off."""
    with pytest.raises(ValueError, match="capability"):
        metrics.requests_total.labels(*labels)


def test_unknown_label_is_an_error():
    """A label that the metric does not have is refused."""
    with pytest.raises(ValueError, match="capability"):
        metrics.requests_total.labels(capability="a", resultt="ok")


def test_name_taken_by_another_kind_is_an_error():
    """Two modules may share a metric, but not disagree about it."""
    metrics.counter("hearthnet_test_shared_total", "Test.", ["a"])

    assert metrics.counter("hearthnet_test_shared_total", "Test.", ["a"]).name == "hearthnet_test_shared_total"
    with pytest.raises(ValueError, match="declared already"):
        metrics.gauge("hearthnet_test_shared_total", "Test.", ["a"])
    with pytest.raises(ValueError, match="declared already"):
        metrics.counter("hearthnet_test_shared_total", "Test.", ["b"])


def test_gauges_are_refreshed_before_a_scrape():
    """What `on_scrape` was given runs at each scrape until it is taken back."""
    metrics.configure(ON)
    gauge = metrics.gauge("hearthnet_test_fresh", "Test.")
    calls = iter(range(1, 10))
    stop = metrics.on_scrape(lambda: gauge.set(next(calls)))

    assert value("hearthnet_test_fresh") == 1
    assert value("hearthnet_test_fresh") == 2
    stop()
    stop()
    assert value("hearthnet_test_fresh") == 2


def test_hostile_label_values_are_escaped():
    """Quotes, newlines and backslashes in a label leave a page that parses."""
    metrics.configure(ON)
    metrics.counter("hearthnet_test_hostile_total", "Test.", ["kind"]).labels('a"b\n\\').inc()

    assert value("hearthnet_test_hostile_total", kind='a"b\n\\') == 1


def test_labelled_instrument_has_no_series_of_its_own():
    """Counting without choosing a series raises."""
    with pytest.raises(ValueError, match="choose a series"):
        metrics.requests_total.inc()


def test_label_given_twice_or_too_many_is_an_error():
    """Also when the series is known already."""
    metrics.requests_total.labels(capability="a", result="ok")
    with pytest.raises(ValueError, match="capability"):
        metrics.requests_total.labels(capability="a", result="ok", more="x")
    with pytest.raises(ValueError, match="capability"):
        metrics.requests_total.labels("a", "ok", result="late")


def test_counter_is_one_with_and_without_its_ending():
    """Two modules that name a counter with and without `_total` share it; other buckets are another metric."""
    first = metrics.counter("hearthnet_test_hits", "Test.")
    assert metrics.counter("hearthnet_test_hits_total", "Test.") is first
    metrics.histogram("hearthnet_test_span_ms", "Test.", buckets=[1, 2])
    with pytest.raises(ValueError, match="declared already"):
        metrics.histogram("hearthnet_test_span_ms", "Test.", buckets=[1, 3])


def test_metric_that_the_library_refuses_stops_nobody():
    """A malformed name leaves that one instrument without effect and all others at work."""
    metrics.configure(ON)
    bad = metrics.counter("hearthnet_test_bad_total", "Test.", ["not-a-label"])
    bad.labels("x").inc()
    metrics.blob_storage_bytes.set(7)
    metrics._instruments.pop("hearthnet_test_bad")

    assert value("hearthnet_blob_storage_bytes") == 7


def test_refresh_that_fails_hides_no_metric():
    """A gauge's owner that raises at a scrape costs only its own gauges."""
    metrics.configure(ON)

    def broken():
        raise OSError("gone")

    stop = metrics.on_scrape(broken)
    try:
        assert value("hearthnet_blob_storage_bytes") is not None
    finally:
        stop()
