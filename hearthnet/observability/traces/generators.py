"""Generators and coroutines with a span around them; the span of a generator is current only while it runs.

A generator's body runs in the context of its consumer, so a span left open in it would become the parent of the
consumer's spans, and fields of a block in it would be on the consumer's records. Here each step swaps the generator's
scope and fields in and out. Whatever the consumer sends or throws,
`GeneratorExit` included, reaches the wrapped generator as it is, and what that one yields, returns or raises reaches
the consumer. The wrapper keeps no value alive that has passed through.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from hearthnet.observability.logs.context_fields import Fields, context_fields, swap_fields
from hearthnet.observability.records.context import current, swap

if TYPE_CHECKING:
    from hearthnet.observability.records.context import Scope

    # The scope and the fields of a piece of work.
    Inside = tuple[Scope | None, Fields | None]

__all__ = ["OpenSpan", "Steps", "Unstarted", "async_generator", "coroutine", "generator", "inside", "swap_in"]


def inside() -> Inside:
    """Returns the scope and the fields that are current."""
    return current.get(), context_fields.get()


def swap_in(found: Inside) -> Inside:
    """Makes a scope and fields current and returns the previous ones."""
    scope, fields = found
    previous = context_fields.get()
    if previous is not fields:
        swap_fields(fields)
    return swap(scope), previous


class OpenSpan(Protocol):
    """A span as its decorator knows it."""

    status: str

    @property
    def span_id(self) -> str:
        """Its id; empty outside any trace."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Steps:
    """A generator of either kind, and a span that is current during its steps and closes with the last one.

    Args:
        inner: the generator.
        span: it is open.
        found: the scope and the fields of the generator's next step.
    """

    __slots__ = ("_inside", "_item", "_send", "_span", "_step", "_throw", "_value")

    _step: Callable[[Any], Any]

    def __init__(self, inner: Any, span: OpenSpan, found: Inside) -> None:
        self._span = span
        self._inside = found
        if isinstance(inner, Generator):
            self._step = self._send = inner.send
            self._throw = inner.throw
        else:
            self._step = partial(_begin_async, inner)
            self._send, self._throw = inner.asend, partial(_throw_async, inner)
        self._value: Any = None
        self._item: Any = None

    @classmethod
    def begin(cls, inner: Any, span: OpenSpan) -> Steps:
        """Opens the span."""
        outside = inside()
        span.__enter__()
        return cls(inner, span, swap_in(outside))

    def send(self, value: Any) -> None:
        """Makes the next step one that sends `value`."""
        self._step, self._value = self._send, value

    def throw(self, error: BaseException) -> None:
        """Makes the next step one that throws `error`."""
        self._step, self._value = self._throw, error

    def take(self) -> Any:
        """Returns the item of the last step, and forgets it."""
        item, self._item = self._item, None
        return item

    def run(self) -> None:
        """Takes the next step, which raises at the end of the generator."""
        value, self._value = self._value, None
        outside = swap_in(self._inside)
        try:
            self._item = self._step(value)
        except BaseException as error:
            self._close(error)
            raise
        finally:
            self._inside = swap_in(outside)

    async def run_async(self) -> None:
        """Takes the next step of an asynchronous generator, which raises at its end."""
        value, self._value = self._value, None
        outside = swap_in(self._inside)
        try:
            self._item = await self._step(value)
        except BaseException as error:
            self._close(error)
            raise
        finally:
            self._inside = swap_in(outside)

    def _close(self, error: BaseException) -> None:
        # A consumer that stops early is no failure of the generator.
        is_end = isinstance(error, StopIteration | StopAsyncIteration | GeneratorExit)
        failure = None if is_end else error
        self._span.__exit__(None if failure is None else type(failure), failure, None)


def _begin_async(inner: Any, _: None) -> Any:
    """Begins an asynchronous generator, unknown to the event loop.

    The loop knows the wrapper and closes it. It would close this one too, at the same time.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return inner.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _throw_async(inner: Any, error: BaseException) -> Any:
    """Throws into an asynchronous generator; raises the error itself if that one has ended.

    The garbage collector may end it before its wrapper. Awaiting its `athrow` would then just return.
    """
    if inner.ag_frame is None:
        raise error
    return inner.athrow(error)


class Unstarted:
    """What a call has returned, until its first step: a generator or coroutine, and the span of the call."""

    __slots__ = ("_inner", "inside", "span")

    def __init__(self, inner: Any, span: OpenSpan, found: Inside) -> None:
        self._inner = inner
        self.span = span
        self.inside = found

    def take(self) -> Any:
        """Returns the generator or coroutine."""
        inner, self._inner = self._inner, None
        return inner

    def steps(self) -> Steps:
        """Returns the steps of the generator."""
        return Steps(self.take(), self.span, self.inside)

    def __del__(self) -> None:
        # It is closed or forgotten without a step. Of a forgotten coroutine Python warns once: for the wrapper.
        if self._inner is not None:
            if isinstance(self._inner, Coroutine):
                self._inner.close()
            self.span.__exit__(None, None, None)


def generator(begin: Callable[..., Steps]) -> Callable[..., Generator[Any, Any, Any]]:
    """Returns a generator function that runs the steps of the generator that `begin` makes of its arguments."""

    def traced(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        steps = begin(*args, **kwargs)
        del args, kwargs
        while True:
            try:
                steps.run()
            except StopIteration as stop:
                return stop.value
            # Not `yield from`: it would turn a GeneratorExit that is thrown into a call of `close`.
            try:
                steps.send((yield steps.take()))
            except BaseException as thrown:  # forwarded, not swallowed  # noqa: BLE001
                steps.throw(thrown)

    return traced


def async_generator(begin: Callable[..., Steps]) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Returns an asynchronous generator function, likewise."""

    async def traced(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        steps = begin(*args, **kwargs)
        del args, kwargs
        while True:
            try:
                await steps.run_async()
            except StopAsyncIteration:
                return
            try:
                steps.send((yield steps.take()))
            except BaseException as thrown:  # as above  # noqa: BLE001
                steps.throw(thrown)

    return traced


async def coroutine(unstarted: Unstarted) -> Any:
    """Awaits a coroutine that a call has returned, within the span of the call."""
    outside = swap_in(unstarted.inside)
    try:
        result = await unstarted.take()
    except BaseException as error:
        unstarted.span.__exit__(type(error), error, None)
        raise
    else:
        unstarted.span.__exit__(None, None, None)
        return result
    finally:
        swap_in(outside)
