"""What is decorated by a span is of the same kind: to inspection, to pickle, in a class, and as a result."""

from __future__ import annotations

import abc
import asyncio
import builtins
import copy
import enum
import functools
import inspect
import pickle
import types

import pytest
from support.decorated import (
    BOTH,
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

# Python 3.13 warns whoever reads a partial from a class, bare or decorated.
pytestmark = pytest.mark.filterwarnings("ignore:functools.partial will be a method descriptor:FutureWarning")


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
        assert inspect.isawaitable(found) == inspect.isawaitable(expected)
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


def test_built_in_types_stay_what_they_are():
    """A class is returned as it is: what it makes are its instances, and it can be a base."""
    assert spanned(builtins.dict) is dict
    assert spanned(Service) is Service


def test_decorated_callables_are_equal_and_hashed_as_the_bare_ones():
    """In a dictionary of handlers, say; what the comparison returns is the callable's own."""

    class Vague(Callable):
        """Compares as an array does."""

        __hash__ = Callable.__hash__

        def __eq__(self, other):
            return ["equal", other]

    plain, vague = Callable(len), Vague(len)
    decorated = spanned(plain)

    assert decorated == plain
    assert decorated == spanned(plain)
    assert decorated != Callable(len)
    assert {plain: "handler"}[decorated] == {decorated: "handler"}[decorated] == "handler"
    assert (spanned(vague) == 7) == ["equal", 7]


@BOTH
def test_object_that_has_a_method_by_itself_is_no_descriptor(decorate):
    """Python asks the type alone."""
    target = Callable(len)
    vars(target)["__get__"] = None

    class Holder:
        """Has it as an attribute."""

        size = decorate(target)

    with trace.new_trace("a.b"):
        assert Holder().size([1, 2]) == Holder.size([1, 2]) == 2
