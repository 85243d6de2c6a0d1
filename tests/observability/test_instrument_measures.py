"""What instruments measure: amounts in buckets, times, work in progress, exceptions."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace

import prometheus_client
import pytest
from support.reading import series

from hearthnet.observability import metrics

ON = SimpleNamespace(metrics_enabled=True)
OFF = SimpleNamespace(metrics_enabled=False)


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
