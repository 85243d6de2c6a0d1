"""Generators with a span around them, current only while they run.

A generator's body runs in the context of its consumer, so a span left open in it would become the parent of the
consumer's spans. Here each step swaps the span's scope in and out. `send`, `throw` and `close` reach the wrapped
generator.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from hearthnet.observability.records.context import Scope, current, swap

__all__ = ["trace_async_generator", "trace_generator"]


class _Steps:
    """The scope of a span that is current during steps."""

    def __init__(self, span: AbstractContextManager[Any]) -> None:
        self._span = span
        outside = current.get()
        span.__enter__()
        self._inside: Scope | None = swap(outside)
        self._outside = outside

    def __enter__(self) -> None:
        self._outside = swap(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = swap(self._outside)

    def end(self, error: BaseException | None) -> None:
        """Closes the span; the scope outside stays current."""
        outside = swap(self._inside)
        # A consumer that stops early is no failure of the generator.
        failure = None if isinstance(error, GeneratorExit) else error
        self._span.__exit__(None if failure is None else type(failure), failure, None)
        swap(outside)


def trace_generator(
    make_span: Callable[[], AbstractContextManager[Any]], function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Generator[Any, Any, Any]]:
    """Returns `function` with a span around each of its generators."""

    @wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        inner = function(*args, **kwargs)
        steps = _Steps(make_span())
        ended_by: BaseException | None = None
        step: Callable[[Any], Any] = inner.send
        value: Any = None
        try:
            while True:
                try:
                    with steps:
                        item = step(value)
                except StopIteration as stop:
                    return stop.value
                try:
                    step, value = inner.send, (yield item)
                except Exception as thrown:  # forwarded, not swallowed  # noqa: BLE001
                    step, value = inner.throw, thrown
        except BaseException as error:
            ended_by = error
            raise
        finally:
            try:
                with steps:
                    inner.close()
            except BaseException as error:  # from its own clean-up
                ended_by = error
                raise
            finally:
                steps.end(ended_by)

    return traced


def trace_async_generator(
    make_span: Callable[[], AbstractContextManager[Any]], function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Returns `function` with a span around each of its asynchronous generators."""

    @wraps(function)
    async def traced(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        inner = function(*args, **kwargs)
        steps = _Steps(make_span())
        ended_by: BaseException | None = None
        step: Callable[[Any], Any] = inner.asend
        value: Any = None
        try:
            while True:
                try:
                    with steps:
                        item = await step(value)
                except StopAsyncIteration:
                    return
                try:
                    step, value = inner.asend, (yield item)
                except Exception as thrown:  # forwarded, not swallowed  # noqa: BLE001
                    step, value = inner.athrow, thrown
        except BaseException as error:
            ended_by = error
            raise
        finally:
            try:
                with steps:
                    await inner.aclose()
            except BaseException as error:  # from its own clean-up
                ended_by = error
                raise
            finally:
                steps.end(ended_by)

    return traced
