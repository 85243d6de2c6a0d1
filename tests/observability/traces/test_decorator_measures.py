"""A span as a decorator measures what it decorates to its end, whatever that is made of."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools

import pytest
from support.decorated import (
    Callable,
    CallableAsync,
    Service,
    make_items,
    make_numbers,
    spanned,
    through_function,
    work,
)

from hearthnet.observability import trace


@pytest.mark.parametrize(
    "function",
    [
        work,
        CallableAsync(work),
        functools.partial(CallableAsync(work)),
        functools.partial(work, 1),
        through_function(work),
        Callable(work),
        lambda: work(*()),
        lambda: asyncio.ensure_future(work()),
        lambda: asyncio.gather(work()),
        Service().method,
        Service.of_class,
        spanned.__class__("another")(CallableAsync(work)),
    ],
)
async def test_asynchronous_work_is_measured_to_its_end(function, family):
    """Whatever the callable is made of: its span lasts until the work is done, and the work's spans are in it."""
    with trace.new_trace("a.b"):
        waiting = spanned(function)()
        assert await waiting in ("done", ["done"])
        await asyncio.sleep(0)  # the callback of a task
        with trace.span("after"):
            pass

    finished = trace.get_recent(1)[0]
    by_name = {item.name: item for item in finished.spans}
    outer, inner = by_name["outer"], by_name["inner"]
    assert outer.offset_ms + outer.duration_ms >= inner.offset_ms + inner.duration_ms
    assert ("outer", None, "ok") in family()
    assert ("after", None, "ok") in family()
    assert inner.parent in (outer.id, by_name.get("another", outer).id)


@pytest.mark.parametrize(
    "function", [make_numbers, lambda: make_numbers(*()), functools.partial(make_numbers, 1), Callable(make_numbers)]
)
def test_generators_are_measured_to_their_end(function, family):
    """A generator that a call merely returns, too; what the consumer does meanwhile is not in the span."""
    with trace.new_trace("a.b"):
        for _ in spanned(function)():
            with trace.span("use"):
                pass

    assert family() == [
        ("outer", None, "ok"), ("inner", "outer", "ok"), ("use", None, "ok"), ("inner", "outer", "ok"),
        ("use", None, "ok"),
    ]  # fmt: skip


@pytest.mark.parametrize("function", [make_items, lambda: make_items(*()), functools.partial(make_items)])
async def test_async_generators_are_measured_to_their_end(function, family):
    """So are asynchronous ones."""
    with trace.new_trace("a.b"):
        async for _ in spanned(function)():
            with trace.span("use"):
                pass

    assert family() == [
        ("outer", None, "ok"), ("inner", "outer", "ok"), ("use", None, "ok"), ("inner", "outer", "ok"),
        ("use", None, "ok"),
    ]  # fmt: skip


@pytest.mark.parametrize("function", [lambda: asyncio.ensure_future(work()), lambda: work(*()), work, make_items])
async def test_work_that_goes_on_is_not_around_its_caller(function, family):
    """Between the call and the end of its work the caller's spans are not in the call's."""
    with trace.new_trace("a.b"):
        waiting = spanned(function)()
        with trace.span("meanwhile"):
            await asyncio.sleep(0)
        if function is make_items:
            await anext(waiting)
            with trace.span("between"):
                await waiting.aclose()
        else:
            await waiting

    found = {name: parent for name, parent, _ in family()}
    assert (found["meanwhile"], found.get("between"), found["inner"]) == (None, None, "outer")


def test_pools_future_is_measured_to_its_end(family):
    """A call that returns the future of a pool: the pool's thread closes the span."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool, trace.new_trace("a.b"):
        good, bad = spanned(pool.submit)(int, "7"), spanned(pool.submit)(int, "x")
        assert good.result(10) == 7
        assert isinstance(bad.exception(10), ValueError)
        pool.shutdown()

    assert family() == [("outer", None, "ok"), ("outer", None, "error")]


@pytest.mark.parametrize(("how", "status"), [("fail", "error"), ("cancel", "cancelled"), ("finish", "ok")])
async def test_task_decides_the_status_of_its_span(how, status, family):
    """A returned task that fails, is cancelled, or is done already."""
    loop = asyncio.get_running_loop()

    async def end():
        if how == "fail":
            raise ValueError

    with trace.new_trace("a.b"):
        task = spanned(lambda: loop.create_task(end()))()
        if how == "cancel":
            task.cancel()
        await asyncio.wait([task])
        if how == "fail":
            assert isinstance(task.exception(), ValueError)
        done = loop.create_future()
        done.set_result(1)
        assert spanned(lambda: done)() is done

    assert family() == [("outer", None, status), ("outer", None, "ok")]


def test_generator_that_the_program_keeps_is_its_own(family):
    """A getter returns the one generator each time; dropping what it returned does not close it."""
    kept = make_numbers()
    get = spanned(lambda: kept)
    with trace.new_trace("a.b"):
        assert get() is kept
        assert next(get()) == 0
        assert next(get()) == 1

    assert [item for item in family() if item[0] == "outer"] == [("outer", None, "ok")] * 3


def test_attributes_are_measured(family):
    """Static and class methods, properties and caches in a class open their spans."""

    class Shop:
        static = trace.span("static")(staticmethod(lambda: 1))
        of_class = trace.span("class")(classmethod(lambda cls: cls))
        rest = trace.span("property")(property(lambda self: 2))
        once = trace.span("once")(functools.cached_property(lambda self: 3))
        computed = trace.span("computed")(functools.lru_cache(lambda self: 4))

    Shop.once.__set_name__(Shop, "once")
    shop = Shop()
    with trace.new_trace("a.b"):
        assert (shop.static(), shop.of_class(), shop.rest, shop.once, shop.once, shop.computed()) == (
            1, Shop, 2, 3, 3, 4,
        )  # fmt: skip

    assert [name for name, _, _ in family()] == ["static", "class", "property", "once", "computed"]
