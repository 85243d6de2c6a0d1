"""The page: one bad metric costs itself alone; what scrapers can read; which format they get."""

from __future__ import annotations

import logging
import threading
from itertools import count
from types import SimpleNamespace

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from hearthnet.observability import callback, metrics
from hearthnet.observability.runtime import runtime
from hearthnet.observability.scrape import OPENMETRICS, TEXT, negotiate

ON = SimpleNamespace(metrics_enabled=True)
OPEN = "application/openmetrics-text"
_numbers = count()


@pytest.fixture(autouse=True)
def on(monkeypatch):
    """Metrics are on; what a test declares is forgotten after it."""
    monkeypatch.setattr(callback, "DEADLINE_S", 0.2)
    before = metrics._instruments.copy()
    metrics.configure(ON)
    metrics.blob_storage_bytes.set(7)
    yield
    for key in metrics._instruments.keys() - before.keys():
        del metrics._instruments[key]


@pytest.fixture
def told():
    """The names of metrics that a warning said are not on the page."""
    found = []

    class Collector(logging.Handler):
        def emit(self, record):
            found.append(record.metric)

    collector = Collector()
    logger = logging.getLogger("hearthnet.observability.scrape")
    logger.addHandler(collector)
    yield found
    logger.removeHandler(collector)


@pytest.fixture
def name():
    """A name of its own for each test."""
    return f"hearthnet_test_scrape_{next(_numbers)}"


def families(accept: str = "") -> dict[str, Metric]:
    """Parses the page as a scraper does, and checks that no metric and no sample is there twice."""
    page, content_type = metrics.exposition(accept)
    parse = openmetrics.text_string_to_metric_families if OPEN in content_type else text_string_to_metric_families
    found = list(parse(page.decode()))
    samples = [(sample.name, *sorted(sample.labels.items())) for family in found for sample in family.samples]
    assert len(samples) == len(set(samples))
    assert len(found) == len({family.name for family in found})
    return {family.name: family for family in found}


def value(name: str) -> float:
    """The only sample of a metric."""
    (sample,) = families()[name].samples
    return sample.value


DOCS = [None, 5, b"abc", "a\ud800", "two\nlines \\ and more", "a\u2028b\x85c\rd\0e", "x" * 100_000, object(), ["l"]]


@pytest.mark.parametrize("accept", ["", OPEN])
@pytest.mark.parametrize("doc", DOCS)
def test_any_description_leaves_the_page(name, doc, accept):
    """A description is text, or becomes it: its metric is there, and all others."""
    metrics.gauge(name, doc).set(1)

    found = families(accept)
    assert found[name].samples[0].value == 1
    assert found["hearthnet_blob_storage_bytes"].samples[0].value == 7
    page = metrics.exposition(accept)[0].decode()
    assert len(page.splitlines()) == page.count("\n")


def test_description_that_raises_leaves_the_page(name):
    """So does one with code of its own."""

    class Bad:
        def __str__(self):
            raise OSError("no")

    metrics.gauge(name, Bad()).set(1)

    assert value(name) == 1
    assert value("hearthnet_blob_storage_bytes") == 7


@pytest.mark.parametrize("accept", ["", OPEN])
def test_page_of_all_instruments_parses(accept):
    """Of every kind, in both formats, with what a process has."""
    metrics.requests_total.labels("other", "ok").inc()
    metrics.request_duration_ms.labels("other").observe(12, {"trace_id": "01HXR"})
    metrics.active_streams.labels("a.b").inc()

    found = families(accept)
    assert found["hearthnet_requests"].type == "counter"
    assert found["hearthnet_request_duration_ms"].type == "histogram"
    assert "process_cpu_seconds" in found


CLASHES = {
    "the process's": ("counter", "process_cpu_seconds_total"),
    "the process's gauge": ("gauge", "process_open_fds"),
    "a histogram's count": ("gauge", "hearthnet_request_duration_ms_count"),
    "a histogram's bucket": ("gauge", "hearthnet_request_duration_ms_bucket"),
    "a histogram's sum": ("counter", "hearthnet_request_duration_ms_sum"),
    "a counter's creation": ("gauge", "hearthnet_requests_created"),
}


@pytest.mark.parametrize("clash", CLASHES)
def test_name_that_is_there_already_is_there_once(clash, told):
    """The metric that was there first stays, the second is missing, which is logged once."""
    kind, name = CLASHES[clash]
    metrics.request_duration_ms.labels("other").observe(1)
    made = getattr(metrics, kind)(name, "Test.")
    made.inc(1_000_000)

    for _ in range(2):
        assert all(sample.value != 1_000_000 for family in families().values() for sample in family.samples)
    assert told == [name.removesuffix("_total") if kind == "counter" else name]


def raising():
    """A function that fails."""
    raise OSError("gone")


def leaving():
    """A function that ends the thread."""
    raise SystemExit


@pytest.fixture
def gate():
    """An event that functions wait for; set at the end, so that no thread is left."""
    made = threading.Event()
    yield made
    made.set()


@pytest.mark.parametrize("function", [raising, leaving, lambda: "high", lambda: None, lambda: float("x")])
def test_gauge_whose_function_fails_is_missing(name, function, told):
    """Its other series and all other metrics are there; the failure is logged once."""
    gauge = metrics.gauge(name, "Test.", ["k"])
    gauge.labels("bad").set_function(function)
    gauge.labels("good").set_function(lambda: 3)
    gauge.labels("set").set(4)

    for _ in range(2):
        assert {sample.labels["k"]: sample.value for sample in families()[name].samples} == {"good": 3, "set": 4}
    assert value("hearthnet_blob_storage_bytes") == 7
    assert told == [name]


def test_gauge_whose_function_hangs_is_missing(name, told, gate):
    """The page waits for it once, and goes on without it."""
    gauge = metrics.gauge(name, "Test.", ["k"])
    gauge.labels("bad").set_function(gate.wait)
    gauge.labels("good").set_function(lambda: 3)

    for _ in range(2):
        assert [sample.labels["k"] for sample in families()[name].samples] == ["good"]
    assert told == [name]


def test_owner_that_hangs_at_a_scrape_hides_no_metric(gate):
    """Its gauges keep their values."""
    stop = metrics.on_scrape(gate.wait)
    try:
        assert value("hearthnet_blob_storage_bytes") == 7
    finally:
        stop()


def family_of(*samples, make=GaugeMetricFamily, name="hearthnet_test_collected"):
    """A metric of a collector with one label."""
    made = make(name, "Test.", labels=["k"])
    for label, number in samples:
        made.add_metric([label], number)
    return made


def broken_family():
    """A metric that cannot be rendered."""
    made = family_of(("a", 1))
    made.documentation = None
    return made


COLLECTED = {
    "raises": raising,
    "exits": leaving,
    "returns nothing": lambda: None,
    "returns no metric": lambda: [object()],
    "no text": lambda: [family_of((5, 1))],
    "surrogate": lambda: [family_of(("a\ud800", 1))],
    "no number": lambda: [family_of(("a", "high"))],
    "no description": lambda: [broken_family()],
    "same labels twice": lambda: [family_of(("a", 1), ("a", 2))],
    "name of another": lambda: [family_of(("a", 1), name="process_open_fds")],
    "counter of another": lambda: [family_of(("a", 1), make=CounterMetricFamily, name="process_cpu_seconds")],
}


@pytest.mark.parametrize("accept", ["", OPEN])
@pytest.mark.parametrize("collected", COLLECTED)
def test_collector_that_fails_costs_itself_alone(collected, accept, told):
    """Whatever a registered collector returns, the page of all others parses; it is logged once."""
    collector = SimpleNamespace(collect=COLLECTED[collected])
    good = SimpleNamespace(collect=lambda: [family_of(("a", 1), name="hearthnet_test_good")])

    class Collector:
        """What can be registered must have a hash."""

        def __init__(self, collect):
            self.collect = collect

    bad, good = Collector(collector.collect), Collector(good.collect)
    runtime.registry.register(bad)
    runtime.registry.register(good)

    for _ in range(2):
        found = families(accept)
        assert "hearthnet_test_collected" not in found
        assert found["hearthnet_test_good"].samples[0].value == 1
        assert found["process_open_fds"].samples[0].labels == {}
        assert found["hearthnet_blob_storage_bytes"].samples[0].value == 7
    assert len(told) == 1
    runtime.registry.unregister(bad)
    families(accept)


def test_collector_that_hangs_costs_itself_alone(gate, told):
    """The page waits for it once."""

    class Collector:
        def collect(self):
            gate.wait()
            return []

    runtime.registry.register(Collector())

    for _ in range(2):
        assert value("hearthnet_blob_storage_bytes") == 7
    assert told == ["Collector"]


def test_label_of_a_collector_cannot_split_the_page():
    """What others collect is as safe for scrapers as our own."""

    class Collector:
        def collect(self):
            yield family_of(("a\u2028b\x85c\rd\0e", 1))

    runtime.registry.register(Collector())

    assert families()["hearthnet_test_collected"].samples[0].labels == {"k": "a?b?c?d?e"}
    page = metrics.exposition()[0].decode()
    assert len(page.splitlines()) == page.count("\n")


def test_metrics_of_the_library_can_be_registered(name):
    """A metric that another library made with `prometheus_client` is on the page."""
    made = prometheus_client.Counter(name, "Test.", ["k"], registry=runtime.registry)
    made.labels("a").inc(3)

    assert [sample.value for sample in families()[name].samples if sample.name == f"{name}_total"] == [3]


def test_negative_buckets_have_no_sum(name):
    """A sum that may fall would look like a restart."""
    made = metrics.histogram(name, "Test.", buckets=[-1, 0, 1])
    made.observe(-5)

    for accept in ("", OPEN):
        assert {sample.name for sample in families(accept)[name].samples} == {f"{name}_bucket"}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("application/json", TEXT),
        (OPEN, OPENMETRICS),
        (f"{OPEN};version=1.0.0", OPENMETRICS),
        (f'{OPEN}; version="1.0.0"; charset=utf-8', OPENMETRICS),
        (f"{OPEN.upper()} ; Q=0.5", OPENMETRICS),
        (f"{OPEN};version=0.0.1", TEXT),
        (f"{OPEN};version=2.0.0,text/plain;q=0.1", TEXT),
        (f"{OPEN};q=0", TEXT),
        (f"{OPEN};q=0,*/*", TEXT),
        (f"{OPEN},text/plain", TEXT),
        (f"{OPEN},*/*", OPENMETRICS),
        (f"{OPEN};q=0.5,*/*", TEXT),
        (f"{OPEN};q=0.5,text/*;q=0.4,*/*", OPENMETRICS),
        (f"{OPEN};q=0.5,text/plain;q=0.4,text/*", OPENMETRICS),
        (f"text/plain;q=0.3,{OPEN};q=0.2", TEXT),
        (f"text/plain;q=0.2,{OPEN};q=0.3", OPENMETRICS),
        (f"text/plain;q=0,{OPEN};q=0.001", OPENMETRICS),
        (f"{OPEN};q=high", TEXT),
        (f"{OPEN};q=nan", TEXT),
        (f"{OPEN};q=-1,{OPEN};q=7", TEXT),
        (",;,=;q", TEXT),
        # Prometheus 2.x and 3.x.
        (
            f"{OPEN};version=1.0.0;q=0.5,{OPEN};version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
            OPENMETRICS,
        ),
        (f"{OPEN};version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;q=0.3,*/*;q=0.1", OPENMETRICS),
        # A server that prefers the protocol buffers of Prometheus, then text.
        ("application/vnd.google.protobuf;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT),
    ],
)
def test_format_is_that_of_the_accept_header(accept, expected):
    """OpenMetrics where it is named and preferred; text by default."""
    assert negotiate(accept) is expected
    page, content_type = metrics.exposition(accept)
    assert content_type == expected.content_type
    assert page.endswith(b"\n# EOF\n") == (expected is OPENMETRICS)
    assert page.count(b"# EOF") == (expected is OPENMETRICS)


@given(st.text(st.sampled_from('aq=;,*/.019 "\t-') | st.characters(), max_size=80))
def test_any_accept_header_has_a_format(accept):
    """A header is the caller's: whatever it says, there is a page."""
    assert negotiate(accept) in (TEXT, OPENMETRICS)


def exemplars(name: str) -> dict[str, dict[str, str]]:
    """The labels of exemplars by bucket, or by the name of a counter's sample."""
    samples = families(OPEN)[name].samples
    return {item.labels.get("le", item.name): item.exemplar.labels for item in samples if item.exemplar}


def test_slow_call_leaves_its_trace_in_its_bucket(name):
    """Each bucket keeps the last of its calls, for who asks for OpenMetrics; the text format has none."""
    made = metrics.histogram(name, "Test.", ["k"], buckets=[10, 100])
    made.labels("a").observe(5, {"trace_id": "FAST"})
    made.labels("a").observe(6)
    made.labels("a").observe(5_000, {"trace_id": "SLOW1"})
    made.labels("a").observe(4_000, exemplar={"trace_id": "SLOW2"})

    assert exemplars(name) == {"10.0": {"trace_id": "FAST"}, "+Inf": {"trace_id": "SLOW2"}}
    assert b"SLOW" not in metrics.exposition()[0]


def test_counter_keeps_the_exemplar_of_its_last_call_that_has_one(name):
    """As the format allows."""
    made = metrics.counter(f"{name}_total", "Test.")
    made.inc(1, {"trace_id": "FIRST"})
    made.inc(1, {"trace_id": "SECOND"})
    made.inc()

    assert exemplars(name) == {f"{name}_total": {"trace_id": "SECOND"}}


class Unreadable(dict):
    """A mapping that raises."""

    def items(self):
        """Raises."""
        raise OSError("no")


@pytest.mark.parametrize(
    "exemplar",
    ["text", 7, Unreadable(), {"trace_id": "x" * 200}, {"a-b": "x"}, {"": "x"}, {"k": "x" * 60, "l": "y" * 70}, ["l"]],
)
def test_exemplar_that_does_not_fit_costs_itself_alone(name, exemplar):
    """The amount counts, the page parses, the next exemplar is there."""
    made = metrics.histogram(name, "Test.", buckets=[1])
    made.observe(0.5, exemplar)

    assert exemplars(name) == {}
    assert families(OPEN)[name].samples[0].value == 1
    made.observe(0.5, {"trace_id": "x"})
    assert exemplars(name) == {"1.0": {"trace_id": "x"}}


@pytest.mark.parametrize("text", ["https://user:hunter2hunter2@example.org/", "a\\b", "a\u2028b\0c"])
def test_exemplar_is_as_safe_as_a_label(name, text):
    """No secret, and nothing that splits the page."""
    metrics.counter(name, "Test.").inc(1, {"k": text})

    assert len(exemplars(name)) == 1
    page = metrics.exposition(OPEN)[0].decode()
    assert "hunter2hunter2" not in page
    assert len(page.splitlines()) == page.count("\n")
