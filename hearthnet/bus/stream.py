"""An answer in frames: each step of the handler runs inside the call's trace, whoever asks for the frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from hearthnet.bus.capability import Frames
from hearthnet.observability.context import Scope, swap
from hearthnet.observability.tracing import span

__all__ = ["CallStream"]


class CallStream:
    """Iterates a handler's frames; ends the call when they end, fail, or are closed before.

    Args:
        frames: what the handler yields.
        scope: the call's place in its trace. It is current during a step and only then, so a consumer's own trace
            and the call's never mix.
        limit_s: the longest wait for one frame.
        check: raises when a frame is not what the capability promises.
        settle: called exactly once, with None or the error that ended the stream; returns the error to raise.
    """

    def __init__(
        self,
        frames: Frames,
        scope: Scope | None,
        limit_s: float,
        check: Callable[[dict[str, Any]], None],
        settle: Callable[[BaseException | None], BaseException | None],
    ) -> None:
        self._frames = frames
        self._limit_s = limit_s
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
            async with asyncio.timeout(self._limit_s):
                frame = await anext(self._frames)
            self._check(frame)
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

    def _end(self, error: BaseException | None) -> BaseException | None:
        self._is_over = True
        self._span.extras["frames"] = self._count
        self._span.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        return self._settle(error)

    async def aclose(self) -> None:
        """Ends the call as cancelled if it is not over, and lets the handler clean up."""
        if self._is_over:
            return
        self._is_over = True
        outside = swap(self._scope)
        try:
            close = getattr(self._frames, "aclose", None)
            if close is not None:
                await close()
        finally:
            self._end(GeneratorExit("the caller left"))
            swap(outside)

    def __del__(self) -> None:
        # A consumer that broke off and forgot the stream: its place must come back all the same.
        if not self._is_over:
            self._end(GeneratorExit("the caller forgot the stream"))
