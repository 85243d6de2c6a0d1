"""Label values from outside: bounded in number and length, safe on the page, and counted when refused."""

from __future__ import annotations

import asyncio
import enum
import inspect
import os
import subprocess
import sys
import threading
from itertools import count
from types import SimpleNamespace

import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from support.threads import at_once

from hearthnet.observability import metrics
from hearthnet.observability.declaration import MAX_LABEL_BYTES
from hearthnet.observability.instrument import MAX_SERIES, OTHER
from hearthnet.observability.redaction.rules import REDACTED

ON = SimpleNamespace(metrics_enabled=True)
OFF = SimpleNamespace(metrics_enabled=False)


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
def page():
    """Makes metrics of these labels, on the page."""
    metrics.configure(ON)
    made = []

    def declare(make, *labels):
        made.append(make(f"hearthnet_test_labels_{next(_numbers)}_total", "Test.", labels))
        return made[-1]

    yield declare
    for one in made:
        metrics._instruments.pop(one.declaration.key)


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
def test_forked_child_counts_though_the_locks_were_held(counter):
    """In series that there are, with labels or without, and with wrong ones."""
    plain = metrics.gauge("hearthnet_test_forked", "Test.")
    known = counter.labels("a", "s")

    def count_all():
        known.inc()
        plain.inc()
        counter.labels("a").inc()

    with counter._lock, plain._lock:
        pid = os.fork()
        if pid == 0:
            thread = threading.Thread(target=count_all, daemon=True)
            thread.start()
            thread.join(10)
            os._exit(int(thread.is_alive()))
        _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0


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


@pytest.mark.parametrize("label", ["api_key", "password", "api-key", "openai_key"])
def test_value_of_a_label_with_a_secrets_name_is_redacted(page, label):
    """As in records: by name, or by name and value; by position, by keyword and as bytes, one series for all."""
    made = page(metrics.counter, label)
    made.labels("sk9f86d081884c7d659a2f").inc()
    made.labels(**{label: b"ak9f86d081884c7d659a2f"}).inc()
    made.labels(ClientToken("tk9f86d081884c7d659a2f")).inc()

    assert series(made.name) == {(REDACTED,): 3}
    assert not any(secret in metrics.exposition()[0] for secret in (b"d081884c", b"9a2f"))


class ClientToken(str):
    """A text of a class of its own."""

    __slots__ = ()


def test_harmless_value_of_an_open_name_stays(page):
    """A key's name is no key; neither is the value of a count of tokens."""
    made = page(metrics.counter, "hot_key", "token_type")
    made.labels("home-page", "prompt").inc()

    assert series(made.name) == {("home-page", "prompt"): 1}


def test_declared_value_of_a_secrets_name_stays(page):
    """A value that the program declares is no secret; any other is not shown either."""
    made = page(metrics.counter, "auth")
    made.allow("auth", ["basic", "none"])
    made.labels("basic").inc()
    made.labels("hunter2hunter2").inc()

    assert series(made.name) == {("basic",): 1, (OTHER,): 1}


def test_redacted_series_can_be_removed(page):
    """By the value that it was counted under."""
    made = page(metrics.gauge, "token", "size")
    made.labels("hunter2hunter2", "s").set(3)
    made.remove("hunter2hunter2", "s")

    assert series(made.name) == {}


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


FINALIZERS = """
import gc
class Resource:
    def __init__(self, counter):
        self.me, self.counter = self, counter
    def __del__(self):
        self.counter.labels("finalizer").inc()
        self.counter.labels(f"finalizer {next(numbers)}").inc()
made = 0
for threshold in (3, 5, 7, 11, 13, 17, 23, 29):
    gc.set_threshold(threshold)
    for _ in range(30):
        counter = metrics.counter(f"hearthnet_test_{next(numbers)}_total", "Test.", ["k"])
        counters.append(counter)
        for number in range(60):
            Resource(counter)
            counter.labels(f"main {number}").inc()
            Resource(counter)
            counter.series()
            made += 5
    gc.collect()
"""
SIGNALS = """
import signal, time
handled = 0
def handle(*_):
    global handled
    handled += 1
    counter.labels(f"handler {next(numbers)}").inc()
    histogram.labels(f"handler {next(numbers)}").observe(1)
    gauge.labels(f"handler {next(numbers)}").set_function(lambda: 1)
    counter.inc(-1)  # refused, counted and logged once
    counter.labels("handler").inc()
counter = metrics.counter("hearthnet_test_signals_total", "Test.", ["k"])
histogram = metrics.histogram("hearthnet_test_signals_ms", "Test.", ["k"])
gauge = metrics.gauge("hearthnet_test_signals_level", "Test.", ["k"])
counters.append(counter)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
rounds = 0
ends = time.monotonic() + 60
while handled < 400 and time.monotonic() < ends:
    rounds += 1
    counter.labels(f"main {rounds % 1000}").inc()
    histogram.labels(f"main {rounds % 1000}").observe(1)
    gauge.labels(f"main {rounds % 1000}").inc()
    if rounds % 50 == 0:
        metrics.exposition()
signal.setitimer(signal.ITIMER_REAL, 0)
made = rounds + 2 * handled
"""
AROUND = """
import faulthandler, itertools, logging, sys
from types import SimpleNamespace
from hearthnet.observability import metrics
faulthandler.dump_traceback_later(90, exit=True)
logging.getLogger("hearthnet").addHandler(logging.NullHandler())
metrics.configure(SimpleNamespace(metrics_enabled=True))
numbers, counters = itertools.count(), []
PROGRAM
counted = sum(sample.value for c in counters for _, series in c.series() for sample in series.samples())
print(int(counted), made, len(metrics.exposition()[0]) > 1000)
"""


@pytest.mark.parametrize("program", [FINALIZERS, SIGNALS], ids=["finalizers", "signals"])
def test_series_made_while_this_thread_makes_one(program):
    """A finalizer or a signal handler in the middle of any call counts as well: nothing waits, no count is lost."""
    script = AROUND.replace("PROGRAM", program)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    counted, made, is_served = done.stdout.split()
    assert (counted, is_served) == (made, "True")


class Interrupting:
    """A lock in whose middle something else happens once: what a finalizer does wherever it likes."""

    def __init__(self, lock, happen):
        self.lock, self.happen = lock, happen

    def __enter__(self):
        self.lock.__enter__()
        if (happen := self.happen) is not None:
            self.happen = None
            happen()

    def __exit__(self, *error):
        self.lock.__exit__(*error)


def test_same_series_made_in_the_middle_is_one(counter):
    """The series that an interruption made is the one that both count in."""
    counter._lock = Interrupting(counter._lock, lambda: counter.labels("a", "s").inc())
    counter.labels("a", "s").inc()
    making = counter._new

    def interrupted():
        counter._new = making
        counter.labels("b", "s").inc()
        return making()

    counter._new = interrupted
    counter.labels("b", "s").inc()

    assert series(counter.name) == {("a", "s"): 2, ("b", "s"): 2}
    assert counter._undeclared == 2


class Colour(enum.Enum):
    """No text."""

    RED = "red"


class Word(str, enum.Enum):  # noqa: UP042  # the text of a StrEnum is its value, that of this one is not
    """A text as well."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"red", "red"),
        (bytearray(b"red"), "red"),
        (b"\xff", "\\xff"),
        (Colour.RED, "Colour.RED"),
        (Word.RED, "red"),
        (True, "True"),
        (1.0, "1.0"),
        (["l"], "['l']"),
        ({}, "{}"),
        (TimeoutError("late"), "late"),
    ],
)
@pytest.mark.parametrize("is_text_known", [True, False])
def test_value_is_its_text(counter, value, shown, is_text_known):
    """Whatever was counted before, a value counts under its own text; what has no hash as well."""
    if is_text_known:
        counter.labels(shown, "s").inc(0)
    counter.labels(value, "s").inc()
    counter.labels(kind=value, size="s").inc()

    assert series(counter.name) == {(shown, "s"): 2}


@pytest.mark.parametrize(
    "value", ["a\u2028b", "a\u2029b", "a\x85b", "a\rb", "a\0b", "a\x0bb", "a\x1cb", "a\x7fb", "a\tb"]
)
def test_value_cannot_split_the_page(counter, value):
    """Scrapers that know more line ends than the format, or end texts at NUL, would lose the whole page."""
    counter.labels(value, "s").inc()

    page = metrics.exposition()[0].decode()
    assert len(page.splitlines()) == page.count("\n")
    assert series(counter.name) == {("a?b", "s"): 1}


def test_values_that_differ_by_such_characters_alone_are_one_series(counter):
    """Two samples with the same labels would be no page."""
    counter.labels("a\rb", "s").inc()
    counter.labels("a\0b", "s").inc()

    assert series(counter.name) == {("a?b", "s"): 2}


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


def test_histogram_counts_in_its_own_buckets():
    """An amount counts in the first bucket whose bound is not below it; bounds are sorted, and each is there once."""
    metrics.configure(ON)
    made = metrics.histogram("hearthnet_test_own_buckets", "Test.", buckets=[5, 1, 1, float("inf"), 5.0])
    for amount in (0, 1, 1.5, 5, 6, -3):
        made.observe(amount)

    assert made.buckets == (1, 5)
    assert series("hearthnet_test_own_buckets_bucket") == {("1.0",): 3, ("5.0",): 5, ("+Inf",): 6}
    assert series("hearthnet_test_own_buckets_count") == {(): 6}
    assert series("hearthnet_test_own_buckets_sum") == {(): 10.5}


def test_buckets_that_are_not_given_are_those_of_the_library():
    """A histogram without buckets, or with none, has seconds from 5 ms to 10 s."""
    made = metrics.histogram("hearthnet_test_seconds", "Test.")

    assert (*made.buckets, float("inf")) == prometheus_client.Histogram.DEFAULT_BUCKETS
    assert metrics.histogram("hearthnet_test_seconds", "Test.", buckets=[]) is made


def test_duration_buckets_are_those_of_the_node():
    """The standard histogram of durations has its own buckets, in milliseconds."""
    metrics.configure(ON)
    metrics.request_duration_ms.labels("other").observe(40)

    bounds = sorted({float(values[-1]) for values in series("hearthnet_request_duration_ms_bucket")})
    assert bounds == [*metrics.DURATION_BUCKETS_MS, float("inf")]


def timers():
    """What measures, and how its result is read."""
    metrics.configure(OFF)
    metrics.configure(ON)
    gauge, histogram = metrics.gauge("hearthnet_test_took", "T."), metrics.histogram("hearthnet_test_took_s", "T.")
    return [
        (gauge.time(), lambda: series("hearthnet_test_took")[()]),
        (histogram.time(), lambda: series("hearthnet_test_took_s_sum")[()]),
    ]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", ["block", "function", "coroutine"])
def test_time_of_a_block_or_a_function(monkeypatch, which, kind):
    """A `with` block, a function and a coroutine function are measured, in seconds, and do what they did."""
    seconds = [100.0]
    monkeypatch.setattr("hearthnet.observability.instrument.perf_counter", lambda: seconds[0])
    timer, result = timers()[which]

    def work(by):
        """Works."""
        seconds[0] += by
        return "done"

    async def work_later(by):
        await asyncio.sleep(0)
        return work(by)

    if kind == "block":
        with timer:
            work(2)
    elif kind == "function":
        decorated = timer(work)
        assert (decorated(by=2), decorated.__name__, decorated.__doc__) == ("done", "work", "Works.")
    else:
        decorated = timer(work_later)
        assert inspect.iscoroutinefunction(decorated)
        assert asyncio.run(decorated(2)) == "done"
    assert result() == 2


def test_work_in_progress_is_counted_while_it_runs():
    """Nested, awaited side by side, and when it fails: afterwards it is 0 again."""
    metrics.configure(ON)
    gauge = metrics.gauge("hearthnet_test_in_progress", "Test.")
    seen = []

    @gauge.track_inprogress()
    async def work(fails):
        await asyncio.sleep(0)
        seen.append(gauge.samples()[0].value)
        if fails:
            raise KeyError("the program's own")

    async def side_by_side():
        return await asyncio.gather(*map(work, [False, True, False]), return_exceptions=True)

    with gauge.track_inprogress():
        results = asyncio.run(side_by_side())

    assert max(seen) == 4
    assert [type(result) for result in results] == [type(None), KeyError, type(None)]
    assert gauge.samples()[0].value == 0


def test_exceptions_are_counted_by_type():
    """Those of the type, which the program gets; others and none are not."""
    metrics.configure(ON)
    counter = metrics.counter("hearthnet_test_raised_total", "Test.")

    @counter.count_exceptions((KeyError, TimeoutError))
    def raising(error):
        raise error

    for error in (KeyError("k"), TimeoutError(), ValueError("v"), SystemExit(3)):
        with pytest.raises(type(error)):
            raising(error)
    with counter.count_exceptions(BaseException), pytest.raises(KeyboardInterrupt):
        raise KeyboardInterrupt

    assert series("hearthnet_test_raised_total") == {(): 2}


def test_reset_counter_begins_at_0(counter):
    """As a program does that begins anew within its process."""
    counter.labels("a", "s").inc(5)
    counter.labels("a", "s").reset()
    counter.labels("a", "s").inc()

    assert series(counter.name) == {("a", "s"): 1}
