"""A span as a decorator: a span around each call, and else nothing changes. Traces and fields decorate like this too.

    decorated                                       the span lasts
    a function                                      until it returns
    … of coroutines, or that returns one            until the coroutine is done
    … of generators of either kind, or likewise     until the generator ends; current only while it runs
    … that returns a future or a task               until that is done
    static and class methods, properties            as the function inside
    other callables: partials, caches, objects      as a function
    a class, anything that cannot be called         there is none: it is returned as it is

A coroutine or generator that something else refers to as well is the program's to keep, so the span ends with the call
that returned it. It also does for other awaitables. Wrong arguments of a coroutine or generator function raise at its
first step, not at the call: the wrapper is a function of the same kind, so that `inspect` says the same of both.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cached_property, wraps
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, coroutine
from typing import TYPE_CHECKING, Any, Final

from hearthnet.observability.records.results import CANCELLED
from hearthnet.observability.traces import generators
from hearthnet.observability.traces.generators import OpenSpan, Steps, Unstarted, inside, swap_in

if TYPE_CHECKING:
    from hearthnet.observability.traces.generators import Inside

__all__ = ["TracedCallable", "TracedDescriptor", "decorate"]

MakeSpan = Callable[[], OpenSpan]


def decorate(make: MakeSpan, target: Any) -> Any:
    """Returns `target` with a span of `make` around each of its calls."""
    if isinstance(target, FunctionType):
        return wraps(target)(_wrapper(make, target))
    if isinstance(target, staticmethod | classmethod):
        return type(target)(decorate(make, target.__func__))
    if isinstance(target, cached_property):
        return type(target)(decorate(make, target.func))
    if isinstance(target, property):
        return target if target.fget is None else target.getter(decorate(make, target.fget))
    if isinstance(target, type) or not callable(target):
        return target
    return (TracedDescriptor if hasattr(type(target), "__get__") else TracedCallable)(make, target)


def _wrapper(make: MakeSpan, function: FunctionType) -> Callable[..., Any]:
    """Returns a function of the same kind."""

    def begin(*args: Any, **kwargs: Any) -> Steps:
        return Steps.begin(function(*args, **kwargs), make())

    if inspect.isasyncgenfunction(function):
        return generators.async_generator(begin)
    if inspect.isgeneratorfunction(function):
        traced = generators.generator(begin)
        is_awaitable = function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
        return coroutine(traced) if is_awaitable else traced
    if not inspect.iscoroutinefunction(function):
        return _calls(make, function)

    async def awaiting(*args: Any, **kwargs: Any) -> Any:
        with make():
            inner = function(*args, **kwargs)
            del args, kwargs  # the coroutine has them, and may drop them
            return await inner

    return awaiting


def _calls(make: MakeSpan, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function whose calls have a span, which stays open as long as the work that they return."""

    def called(*args: Any, **kwargs: Any) -> Any:
        outside = inside()
        span = make().__enter__()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            span.__exit__(type(error), error, error.__traceback__)
            raise
        kind = type(result)
        if span.span_id and kind in _WRAPPERS and sys.getrefcount(result) <= _REFERENCES and not _is_awaitable(result):
            wrapper = _WRAPPERS[kind](Unstarted(result, span, swap_in(outside)))
            wrapper.__name__, wrapper.__qualname__ = result.__name__, result.__qualname__
            return wrapper
        if not hasattr(kind, "add_done_callback") or not _end_with(result, span, outside):
            span.__exit__(None, None, None)
        return result

    return called


_REFERENCES: Final = 2  # of a result that only its receiver has: the variable, and the argument of `getrefcount`
_WRAPPERS: Final[dict[type, Callable[[Unstarted], Any]]] = {
    CoroutineType: generators.coroutine,
    GeneratorType: generators.generator(Unstarted.steps),
    AsyncGeneratorType: generators.async_generator(Unstarted.steps),
}


def _is_awaitable(result: Any) -> bool:
    """Returns whether it is a generator that can be awaited: a wrapper could not."""
    return type(result) is GeneratorType and bool(result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _end_with(future: Any, span: OpenSpan, outside: Inside) -> bool:
    """Has a span close when a future is done; returns False if that is not to be known."""

    def close(done: Any) -> None:
        if done.cancelled():
            span.status = CANCELLED
        # A future whose `exception()` has been called is one whose failure asyncio does not report.
        error = getattr(done, "_exception", None)
        span.__exit__(None, error if isinstance(error, BaseException) else None, None)

    try:
        if future.done():
            close(future)
        else:
            swap_in(outside)
            future.add_done_callback(close)
    except Exception:  # its loop is closed, or it is another kind of future  # noqa: BLE001
        return False
    return True


class TracedCallable:
    """A callable that is no function, with a span around each of its calls; all else is the callable's own.

    It passes for an instance of the callable's class, has its attributes, and is pickled as one.
    """

    __wrapped__: Any

    def __init__(self, make: MakeSpan, target: Any) -> None:
        vars(self).update(
            __wrapped__=target,
            __doc__=target.__doc__,
            __module__=getattr(target, "__module__", None),
            _make=make,
            _call=_calls(make, target),
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls it, in a span."""
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.__wrapped__, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__wrapped__, name)

    @property  # type: ignore[misc]  # a type checker takes it for a variable
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    def __eq__(self, other: object) -> Any:
        return self.__wrapped__ == (other.__wrapped__ if type(other) is type(self) else other)

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = self.__wrapped__.__reduce_ex__(protocol)
        # A name leads to what the module has under it: this object.
        return reduced if isinstance(reduced, str) else (decorate, (self._make, self.__wrapped__))


class TracedDescriptor(TracedCallable):
    """One that binds to the instance or class that it is read from, as a method or a cache does."""

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        target = self.__wrapped__
        bound = target.__get__(instance, owner)
        return self if bound is target else decorate(self._make, bound)
