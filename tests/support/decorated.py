"""Callables of every make, bare and decorated by a span, for the tests of `trace.span` as a decorator."""

from __future__ import annotations

import asyncio
import functools

import pytest

from hearthnet.observability import trace

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
