"""Metrics: instruments work before, after and without a registry; the standard set is complete."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.longer import few

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


def test_standard_histograms_have_bounds_of_their_own():
    """From a cache hit to a language model's long response: the library's bounds end at ten."""
    minutes = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 120_000)

    assert metrics.request_duration_ms.buckets == minutes
    assert metrics.telemetry_flush_seconds.buckets == (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10)


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


@pytest.fixture(params=few(["on", "off", "absent"], "on", "absent"))
def state(request, monkeypatch):
    """Metrics on, off, and configured where `prometheus_client` is not installed."""
    if request.param == "absent":
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
    metrics.configure(OFF if request.param == "off" else ON)
    return request.param


@pytest.fixture
def misuses():
    """The records that tell of misused metrics, as (metric, method, level)."""
    found = []

    class Collector(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("metric"):
                found.append(record)

    collector = Collector()
    logger = logging.getLogger("hearthnet.observability.metrics")
    logger.addHandler(collector)
    yield found
    logger.removeHandler(collector)


def misused(name: str) -> float:
    """How many calls of a metric were refused."""
    return value("hearthnet_telemetry_metric_misuse_total", metric=name) or 0


MISUSES = {
    "negative": lambda c, g, h: c.labels("a", "b").inc(-1),
    "none": lambda c, g, h: c.labels("a", "b").inc(None),
    "nan": lambda c, g, h: c.labels("a", "b").inc(float("nan")),
    "infinite": lambda c, g, h: c.labels("a", "b").inc(float("inf")),
    "too large": lambda c, g, h: c.labels("a", "b").inc(10**400),
    "object": lambda c, g, h: c.labels("a", "b").inc(object()),
    "one label": lambda c, g, h: c.labels("a").inc(),
    "three labels": lambda c, g, h: c.labels("a", "b", "c").inc(),
    "no label": lambda c, g, h: c.labels().inc(),
    "unknown label": lambda c, g, h: c.labels(kind="a", sise="b").inc(),
    "label too many": lambda c, g, h: c.labels(kind="a", size="b", more="x").inc(),
    "label twice": lambda c, g, h: c.labels("a", "b", kind="late").inc(),
    "no series": lambda c, g, h: c.inc(),
    "undeclared label": lambda c, g, h: c.allow("colour", ["red"]),
    "remove too few": lambda c, g, h: c.remove("a"),
    "wrong exception": lambda c, g, h: counts_with("no type", c.labels("a", "b")),
    "labels of none": lambda c, g, h: g.labels("a").inc(),
    "gauge none": lambda c, g, h: g.set(None),
    "gauge text": lambda c, g, h: g.set("high"),
    "gauge complex": lambda c, g, h: g.inc(1j),
    "gauge dec": lambda c, g, h: g.dec([]),
    "gauge function": lambda c, g, h: g.set_function(7),
    "histogram text": lambda c, g, h: h.observe("3 ms"),
    "histogram nan": lambda c, g, h: h.observe(float("nan")),
    "histogram infinite": lambda c, g, h: h.observe(float("-inf")),
    "histogram hostile": lambda c, g, h: h.observe(Hostile()),
}


class HostileError(Exception):
    """An error without a text."""

    def __str__(self):
        raise OSError("no")


class Hostile:
    """Whatever is asked of it, it raises."""

    def __float__(self):
        raise HostileError

    __str__ = __index__ = __hash__ = __lt__ = __iter__ = __float__


def counts_with(types, series):
    """Counts an exception of the program, which gets it."""
    with pytest.raises(KeyError), series.count_exceptions(types):
        raise KeyError


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_the_same_on_off_and_absent(state, misuse, misuses):
    """Nothing raises into the program; the metric keeps what it has; each is counted, and logged the first time."""
    made = (
        metrics.counter("hearthnet_test_misuse_total", "Test.", ["kind", "size"]),
        metrics.gauge("hearthnet_test_misuse_level", "Test."),
        metrics.histogram("hearthnet_test_misuse_ms", "Test.", buckets=[1, 10]),
    )
    made[0].labels("a", "b").inc(2)
    before = sum(misused(instrument.name) for instrument in made)

    for _ in range(3):
        MISUSES[misuse](*made)

    assert [record.getMessage() for record in misuses] == ["metric misused"]
    assert misuses[0].stack_info.count("test_metrics.py")
    if state == "on":
        assert sum(misused(instrument.name) for instrument in made) - before == 3
        assert value("hearthnet_test_misuse_total", kind="a", size="b") == 2
        assert value("hearthnet_test_misuse_level") == 0
        assert value("hearthnet_test_misuse_ms_count") == value("hearthnet_test_misuse_ms_sum") == 0


USES = {
    "inc": lambda c, g, h: (c.inc(), c.inc(amount=2), c.inc(1, {"trace_id": "x"}), c.inc(exemplar={"trace_id": "x"})),
    "gauge": lambda c, g, h: (g.set(value=3), g.inc(amount=1), g.dec(amount=1), g.inc(), g.dec()),
    "observe": lambda c, g, h: (h.observe(amount=4), h.observe(4, {"trace_id": "x"}), h.observe("3")),
    "numbers": lambda c, g, h: (c.inc(True), c.inc(Decimal("1.5")), g.set(Fraction(1, 2)), h.observe(0)),
    "clock": lambda c, g, h: g.set_to_current_time(),
    "reset": lambda c, g, h: (c.reset(), c.clear(), g.clear(), h.clear()),
}


@pytest.mark.parametrize("use", USES)
def test_use_is_the_same_on_off_and_absent(state, use, misuses):
    """Every form of a call that `prometheus_client` has works in each state, and is no misuse."""
    USES[use](
        metrics.counter("hearthnet_test_use_total", "Test."),
        metrics.gauge("hearthnet_test_use_level", "Test."),
        metrics.histogram("hearthnet_test_use_ms", "Test."),
    )

    assert misuses == []


def test_methods_are_those_of_the_library():
    """A counter, a gauge and a histogram have the library's methods and arguments; so has each of their series."""
    made = [
        (prometheus_client.Counter, metrics.counter("hearthnet_test_methods_total", "Test.", ["a"])),
        (prometheus_client.Gauge, metrics.gauge("hearthnet_test_methods_level", "Test.", ["a"])),
        (prometheus_client.Histogram, metrics.histogram("hearthnet_test_methods_ms", "Test.", ["a"])),
    ]
    for library, instrument in made:
        for name in ("labels", "remove", "clear"):
            assert callable(getattr(instrument, name))
        for name, method in vars(library).items():
            if not name.startswith("_") and callable(method):
                wanted = list(inspect.signature(method).parameters)[1:]
                for own in (getattr(instrument, name), getattr(instrument.labels("x"), name)):
                    assert list(inspect.signature(own).parameters) == [WORDS.get(word, word) for word in wanted], name


WORDS = {"f": "function"}


def test_factories_return_the_classes_of_this_module():
    """What `isinstance` may be asked: our classes, for the library need not be installed."""
    assert isinstance(metrics.requests_total, metrics.Counter)
    assert isinstance(metrics.active_streams, metrics.Gauge)
    assert isinstance(metrics.request_duration_ms, metrics.Histogram)
    assert all(isinstance(made, metrics.Instrument) for made in metrics._instruments.values())


@pytest.fixture
def declared():
    """Forgets what a test declares."""
    before, refused = metrics._instruments.copy(), metrics._refused.copy()
    yield
    for known, old in ((metrics._instruments, before), (metrics._refused, refused)):
        for key in known.keys() - old.keys():
            del known[key]


REFUSED = {
    "kind": lambda: metrics.gauge("hearthnet_test_shared_total", "Test.", ["a"]),
    "labels": lambda: metrics.counter("hearthnet_test_shared_total", "Test.", ["b"]),
    "buckets": lambda: metrics.histogram("hearthnet_test_shared_ms", "Test.", buckets=[1, 3]),
    "label is no text": lambda: metrics.counter("hearthnet_test_wrong_total", "Test.", [5]),
    "label is none": lambda: metrics.gauge("hearthnet_test_wrong_total", "Test.", [None]),
    "label is empty": lambda: metrics.gauge("hearthnet_test_wrong_total", "Test.", [""]),
    "labels are a number": lambda: metrics.gauge("hearthnet_test_wrong_total", "Test.", 7),
    "labels collide": lambda: metrics.gauge("hearthnet_test_wrong", "Test.", ["a-b", "a_b"]),
    "label twice": lambda: metrics.gauge("hearthnet_test_wrong", "Test.", ["a", "a"]),
    "label reserved": lambda: metrics.histogram("hearthnet_test_wrong", "Test.", ["le"]),
    "label of the server": lambda: metrics.gauge("hearthnet_test_wrong", "Test.", ["__name__"]),
    "bucket is hostile": lambda: metrics.histogram("hearthnet_test_wrong", "Test.", buckets=[Hostile()]),
    "label is hostile": lambda: metrics.histogram("hearthnet_test_wrong", "Test.", Hostile()),
    "bucket is none": lambda: metrics.histogram("hearthnet_test_wrong", "Test.", buckets=[None, 1]),
    "bucket is text": lambda: metrics.histogram("hearthnet_test_wrong", "Test.", buckets=["a"]),
    "bucket is nan": lambda: metrics.histogram("hearthnet_test_wrong", "Test.", buckets=[1, float("nan")]),
    "name is none": lambda: metrics.counter(None, "Test."),
    "name is empty": lambda: metrics.counter("", "Test."),
    "name is a page": lambda: metrics.counter("x" * 5_000, "Test."),
}


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("wrong", REFUSED)
def test_declaration_that_cannot_be_on_the_page(declared, wrong, is_on, misuses):
    """It is logged, not raised, whether metrics are on already or later; its instrument does nothing that is seen."""
    metrics.configure(ON if is_on else OFF)
    metrics.counter("hearthnet_test_shared_total", "Test.", ["a"]).labels("x").inc()
    metrics.histogram("hearthnet_test_shared_ms", "Test.", buckets=[1, 2]).observe(1)

    made = REFUSED[wrong]()
    made.labels("x").inc() if hasattr(made, "inc") else made.observe(1)
    assert REFUSED[wrong]() is made
    metrics.configure(ON)
    late = metrics.counter("hearthnet_test_after_total", "Test.")
    late.inc()

    refusals = [record for record in misuses if record.getMessage() == "metric cannot be registered"]
    assert [record.levelname for record in refusals] == ["ERROR"]
    assert refusals[0].error
    assert value("hearthnet_test_after_total") == 1
    assert value("hearthnet_test_shared_total", a="x") == (1 if is_on else 0)
    assert b"# TYPE hearthnet_test_wrong" not in metrics.exposition()[0]


def test_metric_is_shared_by_two_modules(declared):
    """Who declares it first makes it; the second gets the same, however the labels are passed."""
    made = metrics.counter("hearthnet_test_twice_total", "Test.", ["a", "b"])

    assert metrics.counter("hearthnet_test_twice_total", "Test.", ("a", "b")) is made
    assert metrics.counter("hearthnet_test_twice", "Other words.", iter(["a", "b"])) is made


def test_names_are_those_of_the_page(declared):
    """Names with other characters are the metric that the page shows: once, and not two of one name."""
    metrics.configure(ON)
    dotted = metrics.gauge("hearthnet.test.dotted", "Test.", ["a-b"])
    dotted.labels("x").set(1)
    dotted.labels(**{"a-b": "x"}).inc()
    dotted.allow("a-b", ["x"])
    dotted.labels("late").set(5)

    assert metrics.gauge("hearthnet_test_dotted", "Test.", ["a_b"]) is dotted
    assert value("hearthnet_test_dotted", a_b="x") == 2
    assert value("hearthnet_test_dotted", a_b="other") == 5


def test_labels_may_be_none_or_one_name(declared):
    """None is no label, one text is one label and not its letters."""
    metrics.configure(ON)
    metrics.counter("hearthnet_test_nolabels_total", "Test.", None).inc()
    metrics.counter("hearthnet_test_onelabel_total", "Test.", "kind").labels("a").inc()

    assert value("hearthnet_test_nolabels_total") == 1
    assert value("hearthnet_test_onelabel_total", kind="a") == 1


def test_counter_is_one_with_and_without_its_ending():
    """Two modules that name a counter with and without `_total` share it."""
    first = metrics.counter("hearthnet_test_hits", "Test.")

    assert metrics.counter("hearthnet_test_hits_total", "Test.") is first


@pytest.mark.parametrize("there", [True, False])
def test_inherited_folder_of_the_library_is_not_used(tmp_path, there):
    """`PROMETHEUS_MULTIPROC_DIR` names a folder, or none: metrics are in memory, and no file is left there."""
    folder = tmp_path / "multiproc"
    if there:
        folder.mkdir()
    script = """
from types import SimpleNamespace
from hearthnet.observability import metrics
metrics.configure(SimpleNamespace(metrics_enabled=True))
metrics.requests_total.labels("a.b", "ok").inc()
metrics.blob_storage_bytes.set(1)
print(b"hearthnet_blob_storage_bytes 1.0" in metrics.exposition()[0])
"""
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        environment = {**os.environ, name: str(folder)}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.stdout == "True\n", done.stderr
        assert (list(folder.iterdir()) if there else folder.exists()) in ([], False)


def test_broken_library_disables_metrics(monkeypatch, misuses):
    """An installed library that cannot be imported costs the metrics, not the program; that is logged."""

    class Broken:
        def find_spec(self, name, *_):
            if name == "prometheus_client":
                raise SyntaxError("half a wheel")

    for name in [name for name in sys.modules if name.split(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    metrics.configure(ON)

    assert metrics.disabled()
    assert [record.getMessage() for record in misuses] == ["metrics are disabled"]


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
