"""`@fields(…)`: functions of every kind have them in each call, and their callers do not."""

from __future__ import annotations

import functools
import inspect

import pytest

from hearthnet.observability import trace
from hearthnet.observability.logs.context_fields import context_fields
from hearthnet.observability.logs.fields import fields


def here():
    """The fields at this point."""
    found = context_fields.get()
    return {} if found is None else found.values


@fields(a=1)
def function():
    """A function."""
    return here()


@fields(a=1)
async def coroutine():
    """A coroutine function."""
    return here()


@fields(a=1)
def generator():
    """A generator function."""
    with fields(b=2):
        got = yield here()
        assert here() == {"a": 1, "b": 2}
        return got


@fields(a=1)
async def async_generator():
    """An asynchronous generator function."""
    with fields(b=2):
        got = yield here()
        yield got, here()


class Owner:
    """Methods of each kind."""

    @fields(a=1)
    def method(self):
        """A method."""
        return self, here()

    @fields(a=1)
    @classmethod
    def of_class(cls):
        """A class method below."""
        return cls, here()

    @staticmethod
    @fields(a=1)
    def static():
        """A static method above."""
        return here()


def test_functions_and_methods():
    """Each has them while it runs."""
    owner = Owner()

    assert function() == Owner.static() == {"a": 1}
    assert owner.method() == (owner, {"a": 1})
    assert Owner.of_class() == (Owner, {"a": 1})
    assert here() == {}


def test_partials():
    """And other callables."""
    assert fields(a=1)(functools.partial(lambda n: (n, here()), 5))() == (5, {"a": 1})


async def test_coroutines():
    """Until they are done, also behind a partial."""
    assert await coroutine() == {"a": 1}
    assert await fields(b=2)(functools.partial(coroutine))() == {"a": 1, "b": 2}
    assert here() == {}


def test_generators():
    """During their own steps; what they send, return, throw and close goes through."""
    running = generator()
    assert next(running) == {"a": 1, "b": 2}
    with fields(consumer=1), pytest.raises(StopIteration) as stopped:
        running.send("sent")
    assert stopped.value.value == "sent"
    thrown = generator()
    next(thrown)
    with pytest.raises(KeyError):
        thrown.throw(KeyError())
    closed = generator()
    next(closed)
    closed.close()
    assert here() == {}


async def test_async_generators():
    """Likewise."""
    running = async_generator()
    assert await anext(running) == {"a": 1, "b": 2}
    assert here() == {}
    assert await running.asend("sent") == ("sent", {"a": 1, "b": 2})
    with pytest.raises(KeyError):
        await running.athrow(KeyError())
    assert [item async for item in async_generator()] == [{"a": 1, "b": 2}, (None, {"a": 1, "b": 2})]
    assert here() == {}


def test_kind_and_name_stay():
    """`inspect` says of the decorated function what it says of the bare one."""
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(async_generator)
    assert (function.__name__, function.__doc__) == ("function", "A function.")


@pytest.mark.parametrize("target", [int, 5])
def test_what_is_no_function_stays(target):
    """A class could no longer be derived from."""
    assert fields(a=1)(target) is target


def test_block_in_a_traced_generator_is_not_the_consumers():
    """A generator with a trace or a span around it has its fields to itself, too."""

    @trace.span("work")
    def generate():
        with fields(a=1):
            yield here()
            yield here()

    running = generate()
    with trace.new_trace("a.b"):
        assert next(running) == {"a": 1}
        assert here() == {}
        assert next(running) == {"a": 1}
