"""Streamed responses: each step of the handler runs inside the call's trace, whichever task consumes the frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from hearthnet.bus.capability import Frames
from hearthnet.errors import WireError
from hearthnet.observability.records.context import swap
from hearthnet.observability.tracing import span

if TYPE_CHECKING:
    from hearthnet.observability.records.context import Scope

__all__ = ["CallStream"]


class CallStream:
    """Iterates over a handler's frames; ends the call when they end, fail, or are closed early.

    Args:
        frames: what the handler yields.
        scope: the call's scope in its trace. It is current only during a step, so the consumer's trace and the call's
            never mix.
        limit_s: the longest wait for one frame.
        is_own_limit: the caller set that limit, so reaching it does not count against the capability.
        check: raises when a frame does not match the capability's schema.
        settle: called exactly once, with None or the error that ended the stream; returns the error to raise.
    """

    def __init__(
        self,
        frames: Frames,
        scope: Scope | None,
        limit_s: float,
        is_own_limit: bool,
        check: Callable[[dict[str, Any]], None],
        settle: Callable[[BaseException | None], BaseException | None],
    ) -> None:
        self._frames = frames
        self._limit_s = limit_s
        self._is_own_limit = is_own_limit
        self._check = check
        self._settle = settle
        self._count = 0
        self._is_over = False
        outside = swap(scope)
        self._span = span("stream").__enter__()
        self._scope = swap(outside)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._is_over:
            raise StopAsyncIteration
        outside = swap(self._scope)
        try:
            frame = await self._next()
        except StopAsyncIteration:
            self._end(None)
            raise
        except BaseException as error:
            visible = self._end(error)
            if visible is error:
                raise
            raise visible or error from error
        finally:
            self._scope = swap(outside)
        self._count += 1
        return frame

    async def _next(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._limit_s) as limit:
                frame = await anext(self._frames)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise WireError("timeout", f"no frame within {self._limit_s:g} s", asked_for=self._is_own_limit) from error
        try:
            self._check(frame)
        except WireError:
            await self._close_frames()
            raise
        return frame

    async def _close_frames(self) -> None:
        close = getattr(self._frames, "aclose", None)
        if close is not None:
            await close()

    def _end(self, error: BaseException | None) -> BaseException | None:
        self._is_over = True
        self._span.extras["frames"] = self._count
        self._span.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        return self._settle(error)

    async def aclose(self) -> None:
        """Ends the call as cancelled unless it is over, and lets the handler clean up."""
        if self._is_over:
            return
        self._is_over = True
        outside = swap(self._scope)
        try:
            await self._close_frames()
        finally:
            self._end(GeneratorExit("the caller left"))
            swap(outside)

    def __del__(self) -> None:
        # The consumer abandoned the stream without closing it: free the slot all the same.
        if not self._is_over:
            outside = swap(self._scope)  # the garbage collector may run in any context
            try:
                self._end(GeneratorExit("the caller abandoned the stream"))
            finally:
                swap(outside)
