"""A span as a decorator changes nothing: what is decorated behaves as it does bare, and is measured to its end."""

from __future__ import annotations

import abc
import asyncio
import builtins
import concurrent.futures
import contextlib
import copy
import enum
import functools
import gc
import inspect
import pickle
import types
import warnings
import weakref

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.programs import actions, bodies, drive

from hearthnet.observability import trace
from hearthnet.observability.records.context import current

# Python 3.13 warns whoever reads a partial from a class, bare or decorated.
pytestmark = pytest.mark.filterwarnings("ignore:functools.partial will be a method descriptor:FutureWarning")

spanned = trace.span("outer")


def bare(function):
    """Decorates nothing."""
    return function


BOTH = pytest.mark.parametrize("decorate", [bare, spanned], ids=["bare", "decorated"])


def through_function(function):
    """A decorator of the kind that hands on what it gets."""

    @functools.wraps(function)
    def handing_on(*args, **kwargs):
        return function(*args, **kwargs)

    return handing_on


class Callable:
    """An object that is called, with a state of its own."""

    def __init__(self, function):
        self.function = function
        self.calls = 0

    def __call__(self, *args):
        """Calls the function."""
        self.calls += 1
        return self.function(*args)


class CallableAsync(Callable):
    """The same, by an `async def`."""

    async def __call__(self, *args):
        """Awaits the function."""
        self.calls += 1
        return await self.function(*args)


@pytest.fixture
def family():
    """Returns the spans of the newest trace as (name, parent's name, status)."""

    def read():
        finished = trace.get_recent(1)[0]
        names = {item.id: item.name for item in finished.spans}
        return [(item.name, names.get(item.parent), item.status) for item in finished.spans]

    return read


@pytest.mark.parametrize("form", [bare, functools.partial], ids=lambda form: form.__name__)
@pytest.mark.parametrize("kind", ["generator", "coroutine", "async generator"])
def test_program_does_the_same_bare_and_decorated(kind, form):
    """Whatever it does, and whatever is sent, thrown and closed, when, and by whom: nothing that is seen differs."""

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(bodies(kind), actions(is_coroutine=kind == "coroutine"), st.booleans())
    def compare(body, script, is_handling):
        expected = drive(kind, body, form, script, is_handling=is_handling)
        # A program that goes on when it is closed is reported, and closed again when its wrapper is gone.
        assume("ignored GeneratorExit" not in repr(expected))
        with trace.new_trace("a.b") as started:
            found = drive(kind, body, lambda function: spanned(form(function)), script, is_handling=is_handling)
            outside = current.get()
        assert found == expected
        if kind != "coroutine":
            assert outside is started
        assert {item.status for item in trace.get_recent(1)[0].spans} <= {"ok", "error", "cancelled"}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        compare()


@BOTH
def test_generators_that_go_on_when_closed_are_reported(decorate):
    """`close` raises, once, and the generator can still be used."""

    @decorate
    def stubborn():
        for number in range(3):
            with contextlib.suppress(GeneratorExit):
                yield number

    items = stubborn()
    next(items)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        items.close()
    assert items.throw(GeneratorExit) == 2
    assert next(items, "end") == "end"


@BOTH
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, BaseException, StopIteration]
)
def test_context_manager_sees_what_its_block_raises(decorate, error):
    """What a `@contextmanager` catches stays caught, whatever its kind."""
    caught = []

    @contextlib.contextmanager
    @decorate
    def transaction():
        try:
            yield "begun"
        except BaseException as thrown:  # noqa: BLE001
            caught.append(type(thrown))

    with trace.new_trace("a.b"), transaction() as state:
        assert state == "begun"
        raise error

    assert caught == [error]


@BOTH
async def test_cancelled_block_of_an_async_context_manager(decorate):
    """A task that is cancelled inside one: the clean-up runs on the cancellation, not on a GeneratorExit."""
    caught = []
    inside = asyncio.Event()

    @contextlib.asynccontextmanager
    @decorate
    async def connection():
        try:
            yield
        except BaseException as thrown:
            caught.append(type(thrown))
            await asyncio.sleep(0)
            raise

    async def use():
        async with connection():
            inside.set()
            await asyncio.Event().wait()

    with trace.new_trace("a.b"):
        task = asyncio.create_task(use())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert caught == [asyncio.CancelledError]


@BOTH
async def test_stacks_of_context_managers(decorate):
    """Decorated ones in a stack are left in order, and see the exception that each of them makes of it."""
    left = []

    @contextlib.contextmanager
    @decorate
    def layer(number, caught, made):
        try:
            yield
        except caught as error:
            left.append((number, type(error)))
            raise made from error

    def run():
        with contextlib.ExitStack() as stack:
            stack.enter_context(layer(1, LookupError, KeyError("last")))
            stack.enter_context(layer(2, KeyboardInterrupt, LookupError()))
            stack.enter_context(layer(3, ValueError, KeyboardInterrupt()))
            raise ValueError

    with trace.new_trace("a.b"), pytest.raises(KeyError, match="last") as raised:
        run()

    assert left == [(3, ValueError), (2, KeyboardInterrupt), (1, LookupError)]
    assert isinstance(raised.value.__cause__, LookupError)


async def work(*_):
    """Opens a span, and lets others run."""
    with trace.span("inner"):
        await asyncio.sleep(0)
    return "done"


async def make_items():
    """An asynchronous generator that opens spans."""
    for number in range(2):
        with trace.span("inner"):
            await asyncio.sleep(0)
        yield number


def make_numbers(*_):
    """A generator that opens spans."""
    for number in range(2):
        with trace.span("inner"):
            pass
        yield number


class Service:
    """Has methods of every kind."""

    async def method(self):
        """A coroutine."""
        return await work()

    @classmethod
    async def of_class(cls):
        """A coroutine of the class."""
        return await work()


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


@BOTH
async def test_failure_of_a_forgotten_task_is_still_reported(decorate):
    """A loop reports an exception that was never retrieved: to watch a task is not to retrieve it."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told["message"]))

    async def fail():
        raise ValueError

    @decorate
    def start():
        return asyncio.get_running_loop().create_task(fail())

    with trace.new_trace("a.b"):
        await asyncio.wait([start()])
        await asyncio.sleep(0)
    gc.collect()

    assert reported == ["Task exception was never retrieved"]


@BOTH
def test_future_of_a_closed_loop_is_returned(decorate):
    """Nothing can be told of it any more; the call returns it as it is."""
    loop = asyncio.new_event_loop()
    future, done = loop.create_future(), loop.create_future()
    done.set_result(1)
    loop.close()

    with trace.new_trace("a.b"):
        assert decorate(lambda: future)() is future
        assert decorate(lambda: done)() is done


class Strange:
    """Has the methods of a future, and means something else by them."""

    def done(self):
        """Raises."""
        raise ZeroDivisionError

    def add_done_callback(self):
        """Takes no callback."""


class Lazy:
    """Loads itself from elsewhere as soon as an attribute is read."""

    def __getattribute__(self, name):
        raise AssertionError(name)


@pytest.mark.parametrize("make", [Strange, Lazy, int, type(None), list, lambda: type, lambda: Service])
def test_other_results_are_returned_untouched(make):
    """No attribute of a result is read: to look may be to load."""
    result = make()
    with trace.new_trace("a.b"):
        assert spanned(lambda: result)() is result


def test_generator_that_the_program_keeps_is_its_own(family):
    """A getter returns the one generator each time; dropping what it returned does not close it."""
    kept = make_numbers()
    get = spanned(lambda: kept)
    with trace.new_trace("a.b"):
        assert get() is kept
        assert next(get()) == 0
        assert next(get()) == 1

    assert [item for item in family() if item[0] == "outer"] == [("outer", None, "ok")] * 3


@BOTH
@pytest.mark.parametrize("form", [bare, functools.partial, through_function], ids=lambda form: form.__name__)
def test_coroutine_that_never_runs(decorate, form):
    """Forgotten, it is warned of once and by its name; closed, not at all; and its span is closed."""
    function = decorate(form(work))
    with trace.new_trace("a.b"), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        function()
        gc.collect()
        function().close()
        gc.collect()

    assert [str(item.message) for item in warned] == ["coroutine 'work' was never awaited"]
    # The warning keeps the first one alive.
    assert [item.status for item in trace.get_recent(1)[0].spans] in ([], ["open", "ok"])


@BOTH
def test_forgotten_generators_clean_up(decorate):
    """One that was begun runs its clean-up when it is collected; one that was not runs nothing."""
    left = []

    @decorate
    def items():
        try:
            yield
        finally:
            left.append("clean-up")

    with trace.new_trace("a.b"):
        begun, never = items(), items()
        next(begun)
        del begun, never
        gc.collect()

    assert left == ["clean-up"]


@BOTH
@pytest.mark.parametrize("form", [bare, functools.partial], ids=lambda form: form.__name__)
def test_loop_closes_an_asynchronous_generator_once(decorate, form):
    """At the end of `asyncio.run` an unfinished generator cleans up, awaiting, and the loop has nothing to report."""
    seen = []

    async def items():
        try:
            yield 1
        finally:
            seen.append("begins")
            for _ in range(3):
                await asyncio.sleep(0)
            seen.append("ends")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, told: seen.append(told))
        kept.append(decorate(form(items))())
        await anext(kept[0])

    kept = []
    with trace.new_trace("a.b"):
        asyncio.run(main())

    assert seen == ["begins", "ends"]


class Value:
    """Something that can be seen to go."""


@BOTH
def test_nothing_that_passes_is_kept_alive(decorate):
    """Neither an item, nor what was sent or thrown, nor an argument that the body has dropped."""

    @decorate
    def relay(value):
        del value
        for _ in range(2):
            with contextlib.suppress(ValueError):
                yield Value()
        yield

    argument, sent, thrown = Value(), Value(), ValueError()
    gone = [weakref.ref(argument), weakref.ref(sent)]
    with trace.new_trace("a.b"):
        items = relay(argument)
        gone.append(weakref.ref(next(items)))
        assert gone[-1]() is None
        gone.append(weakref.ref(items.send(sent)))
        assert gone[-1]() is None
        thrown.value = Value()
        gone.append(weakref.ref(thrown.value))
        items.throw(thrown)
        del argument, sent, thrown
        gc.collect()

        assert [reference() for reference in gone] == [None] * 5


@BOTH
async def test_coroutine_may_drop_its_arguments(decorate):
    """A large argument that the body deletes is gone while it waits."""
    waits, may_end = asyncio.Event(), asyncio.Event()

    @decorate
    async def serve(body):
        del body
        waits.set()
        await may_end.wait()

    body = Value()
    gone = weakref.ref(body)
    with trace.new_trace("a.b"):
        serving = serve(body)
        del body
        task = asyncio.create_task(serving)
        await waits.wait()
        assert gone() is None
        may_end.set()
        await task


def plain(a, b: int = 2, *, c=3) -> int:
    """A function that a module has."""
    return a + b + c


@spanned
def added(a, c=3):
    """A function that a module has."""
    return a + c


@spanned
@functools.lru_cache
def cached(a, c=3):
    """One with a cache."""
    return a + c


prepared = spanned(functools.partial(plain, 1))
remembered = spanned(Callable(plain))


@types.coroutine
def awaitable_generator():
    """A coroutine in the old style."""
    yield from asyncio.sleep(0)
    return "slept"


PREDICATES = (
    inspect.iscoroutinefunction, asyncio.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction,
    inspect.isfunction, inspect.ismethod, inspect.isroutine, inspect.isclass, inspect.ismethoddescriptor, callable,
    inspect.isabstract,
)  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [
        plain, work, make_numbers, make_items, awaitable_generator, Service().method, Service.of_class, Service.method,
        functools.partial(work), functools.partial(make_numbers), functools.partial(functools.partial(make_items)),
        CallableAsync(work), Callable(plain), functools.lru_cache(plain), through_function(work), [].append, len,
        str.upper, Service, lambda: None,
    ],
)  # fmt: skip
def test_inspection_finds_no_difference(function):
    """Every predicate, the names, the documentation and the signature are those of the bare callable."""
    decorated = spanned(function)

    assert [tell(decorated) for tell in PREDICATES] == [tell(function) for tell in PREDICATES]
    for name in ("__name__", "__qualname__", "__doc__", "__module__", "__self__", "__wrapped__", "func", "calls"):
        if name != "__wrapped__" or not hasattr(decorated, name):
            assert getattr(decorated, name, None) == getattr(function, name, None), name
    assert inspect.signature(decorated) == inspect.signature(function)
    assert isinstance(decorated, type(function))


def test_work_is_of_the_same_type():
    """What a call returns is a coroutine, a generator, an asynchronous generator, with the same name."""
    for function in (work, make_numbers, make_items, functools.partial(make_numbers), through_function(make_items)):
        with trace.new_trace("a.b"):
            expected, found = function(), spanned(function)()
        assert type(found) is type(expected)
        assert (found.__name__, found.__qualname__) == (expected.__name__, expected.__qualname__)
        for item in (expected, found):
            if hasattr(item, "close"):
                item.close()


async def test_old_style_coroutine_can_be_awaited(family):
    """A generator that can be awaited still can be, decorated, or returned by what is decorated."""
    with trace.new_trace("a.b"):
        assert await spanned(awaitable_generator)() == "slept"
        assert await spanned(lambda: awaitable_generator(*()))() == "slept"

    assert family() == [("outer", None, "ok")] * 2


@pytest.mark.parametrize("function", [added, cached, prepared, remembered])
def test_decorated_callables_are_pickled_and_copied(function):
    """As the bare ones: by name what has one, else by content."""
    again = pickle.loads(pickle.dumps(function))
    with trace.new_trace("a.b"):
        assert again(10) == function(10)
        assert copy.deepcopy(function)(10) == copy.copy(function)(10) == function.__wrapped__(10)

    assert len(trace.get_recent(1)[0].spans) >= 2


@BOTH
def test_class_with_decorated_attributes(decorate):
    """Methods of every make bind as they do bare, and none is left without its instance or given one too many."""

    class Shop:
        limit = 10

        @decorate
        def method(self, a):
            return self.limit, a

        @decorate
        @functools.lru_cache  # noqa: B019  # that is what programs do
        def computed(self, a):
            return self.limit * a

        static = decorate(staticmethod(lambda a: a))
        static_below = staticmethod(decorate(lambda a: a))
        of_class = decorate(classmethod(lambda cls, a: (cls.limit, a)))
        dispatched = decorate(functools.singledispatchmethod(lambda self, a: (self.limit, a)))
        added = decorate(functools.partialmethod(method, 5))
        prepared = decorate(functools.partial(divmod, 7))
        builtin = decorate(len)
        shown = decorate(Callable(str))
        Inner = decorate(Service)
        nothing = decorate(None)

    Shop.__dict__["dispatched"].register(int, lambda _, a: ("int", a))
    shop = Shop()
    with trace.new_trace("a.b"):
        assert (shop.method(1), Shop.method(shop, 1)) == ((10, 1), (10, 1))
        assert (shop.static(1), Shop.static(2), shop.static_below(3)) == (1, 2, 3)
        assert (shop.of_class(1), Shop.of_class(2)) == ((10, 1), (10, 2))
        assert (shop.computed(2), shop.computed(2), Shop.computed.cache_info().hits) == (20, 20, 1)
        Shop.computed.cache_clear()
        assert shop.computed == shop.computed
        assert (shop.dispatched("a"), shop.dispatched(1)) == ((10, "a"), ("int", 1))
        assert (shop.added(), shop.prepared(2), shop.builtin("abc"), shop.shown(1)) == ((10, 5), (3, 1), 3, "1")
        assert (Shop.shown.calls, shop.shown.calls) == (1, 1)
        Shop.shown.calls = 7
        assert Shop.shown.calls == 7
        assert isinstance(shop.Inner(), Service)
        assert shop.nothing is None


@BOTH
def test_class_with_decorated_properties(decorate):
    """A property keeps its setter, its documentation and what it refuses; a cached one is computed once."""

    class Shop:
        @decorate
        @property
        def rest(self):
            """What remains."""
            return self.__dict__.get("value", 10)

        @rest.setter
        def rest(self, value):
            self.__dict__["value"] = value

        @decorate
        @functools.cached_property
        def once(self):
            return object()

    shop = Shop()
    with trace.new_trace("a.b"):
        assert shop.rest == 10
        shop.rest = 3
        assert (shop.rest, Shop.rest.__doc__) == (3, "What remains.")
        with pytest.raises(AttributeError):
            del shop.rest
        assert shop.once is shop.once


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


@BOTH
def test_abstract_methods_and_members_of_enumerations(decorate):
    """A class is still abstract, and a method of an enumeration is no member."""

    class Base(abc.ABC):
        @decorate
        @abc.abstractmethod
        def method(self): ...

        @decorate
        @property
        @abc.abstractmethod
        def value(self): ...

    class Colour(enum.Enum):
        RED = 1

        @decorate
        def shout(self):
            return self.name

        @decorate
        @classmethod
        def first(cls):
            return cls.RED

    with pytest.raises(TypeError, match="abstract"):
        Base()
    assert Base.__abstractmethods__ == {"method", "value"}
    assert (list(Colour), Colour.RED.shout(), Colour.first()) == ([Colour.RED], "RED", Colour.RED)


@BOTH
def test_recursion_reaches_the_same_error(decorate):
    """A function that calls itself without end raises, and what it was called in goes on."""

    @decorate
    def again(n):
        return again(n + 1)

    with trace.new_trace("a.b"), pytest.raises(RecursionError):
        again(0)

    assert trace.current_trace() is None


@BOTH
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(4)])
def test_what_a_function_raises_leaves_it_unchanged(decorate, error):
    """The same object, with nothing added to it but its traceback."""

    @decorate
    def fail():
        raise error

    error.__traceback__ = None
    with trace.new_trace("a.b"), pytest.raises(type(error)) as raised:
        fail()

    assert raised.value is error
    assert (error.__cause__, error.__context__, getattr(error, "__notes__", [])) == (None, None, [])


@BOTH
async def test_group_of_tasks_fails_as_it_does_bare(decorate):
    """One failure in a TaskGroup cancels the others, and its group has that failure alone."""
    seen = []

    @decorate
    async def fail():
        await asyncio.sleep(0)
        raise ValueError("first")

    @decorate
    async def wait():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def run():
        async with asyncio.TaskGroup() as group:
            group.create_task(wait())
            group.create_task(fail())

    with trace.new_trace("a.b"), pytest.raises(ExceptionGroup) as raised:
        await run()

    assert [str(error) for error in raised.value.exceptions] == ["first"]
    assert seen == ["cancelled"]


def test_built_in_types_stay_what_they_are():
    """A class is returned as it is: what it makes are its instances, and it can be a base."""
    assert spanned(builtins.dict) is dict
    assert spanned(Service) is Service
