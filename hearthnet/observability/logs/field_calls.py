"""Fields as a decorator: in each call of a function, and else nothing changes.

A coroutine has them until it is done. A generator of either kind has them during its own steps alone, not while its
consumer runs. Of a function that returns one of these, as of any other callable, the call has them.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from hearthnet.observability.logs.context_fields import Fields, context_fields, swap_fields

__all__ = ["decorate"]

Block = AbstractContextManager[Any]


def decorate(block: Block, target: Any) -> Any:
    """Returns `target` with the fields of `block` in each of its calls; what cannot be called, as it is."""
    if isinstance(target, staticmethod | classmethod):
        return type(target)(decorate(block, target.__func__))
    if isinstance(target, type) or not callable(target):
        return target
    return wraps(target)(_wrapper(block, target))


def _wrapper(block: Block, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of the same kind."""
    if inspect.isasyncgenfunction(function):
        return _async_generator(block, function)
    if inspect.isgeneratorfunction(function):
        return _generator(block, function)
    if inspect.iscoroutinefunction(function):

        async def awaiting(*args: Any, **kwargs: Any) -> Any:
            with block:
                return await function(*args, **kwargs)

        return awaiting

    def called(*args: Any, **kwargs: Any) -> Any:
        with block:
            return function(*args, **kwargs)

    return called


def _inside(block: Block) -> Fields | None:
    """Returns the fields that are current in the block."""
    with block:
        return context_fields.get()


def _generator(block: Block, function: Callable[..., Any]) -> Callable[..., Generator[Any, Any, Any]]:
    def stepping(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        inner, inside = function(*args, **kwargs), _inside(block)
        step, value = inner.send, None
        while True:
            outside = swap_fields(inside)
            try:
                item = step(value)
            except StopIteration as stop:
                return stop.value
            finally:
                inside = swap_fields(outside)
            try:
                step, value = inner.send, (yield item)
            except BaseException as thrown:  # forwarded, not swallowed  # noqa: BLE001
                step, value = inner.throw, thrown

    return stepping


def _async_generator(block: Block, function: Callable[..., Any]) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def stepping(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        inner, inside = function(*args, **kwargs), _inside(block)
        step, value = inner.asend, None
        while True:
            outside = swap_fields(inside)
            try:
                item = await step(value)
            except StopAsyncIteration:
                return
            finally:
                inside = swap_fields(outside)
            try:
                step, value = inner.asend, (yield item)
            except BaseException as thrown:  # as above  # noqa: BLE001
                step, value = inner.athrow, thrown

    return stepping
