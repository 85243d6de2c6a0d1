"""Everything that `hearthnet` offers to programs, used as they use it: `scripts/check` checks its types.

A line that must be an error of types has `type: ignore`, which is an error itself where nothing is ignored. A test runs
the file as well.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from wsgiref.types import WSGIApplication

from hearthnet import current_trace, fields, get_logger, get_recent, metrics, span, telemetry, trace
from hearthnet.config import ObservabilityConfig
from hearthnet.observability.logging import Logger, RateLimitedLogger
from hearthnet.observability.logs.adapters import BoundLogger
from hearthnet.observability.middleware import WSGIMiddleware, wsgi_metrics
from hearthnet.observability.telemetry import Telemetry
from hearthnet.observability.traces.propagation import ContextExecutor, carry
from hearthnet.observability.tracing import Span, Trace

log: Logger = get_logger(__name__)
standard: logging.Logger = log
bound: BoundLogger = log.bind(user="ann", n=1)
adapter: logging.LoggerAdapter[logging.Logger] = bound.bind(k=2).unbind("n")
jobs = metrics.counter("public_api_jobs_total", "Jobs.", ["result"])


@trace("function", n=1)
def function(a: int, b: str = "") -> str:
    """A function."""
    return f"{a}{b}"


def wrapped(app: WSGIApplication) -> WSGIApplication:
    """An application as the standard library declares it, before and after."""
    return WSGIMiddleware(app, route=lambda environ: environ["PATH_INFO"])


@span("coroutine")
async def coroutine(a: int) -> int:
    """A coroutine function."""
    return a


@fields(job="nightly")
def generator() -> Iterator[int]:
    """A generator function."""
    yield 1


@trace("async generator")
async def async_generator() -> AsyncIterator[int]:
    """An asynchronous generator function."""
    yield 1


class Owner:
    """Methods."""

    @trace("method")
    def method(self, a: int) -> int:
        """A method."""
        return a


async def use_async() -> None:
    """Blocks and functions."""
    async with telemetry.open(ObservabilityConfig(data_dir=Path("data"), log_dir=Path("log"))) as opened:
        assert isinstance(opened, Telemetry)
        async with trace("block") as begun, span("step") as step, fields(a=1):
            begun.extras["k"] = 1
            step.extras["k"] = 1
            found: Trace | None = current_trace()
            assert found is begun
            number: int = await coroutine(1)
            numbers: list[int] = [item async for item in async_generator()]
        assert (number, numbers) == (1, [1])


def use() -> None:
    """Every way to open, to log and to trace."""
    with telemetry.open(console="off"), trace("block", host="den") as begun, span("step") as step:
        text: str = function(1, b="x")
        numbers: list[int] = list(generator())
        assert (text, numbers, Owner().method(2)) == ("1x", [1], 2)
        begun.fail("timeout", "too slow")
        log.info("said %s", 1, extra={"n": 1})
        bound.warning("said", extra={"n": 1}, stacklevel=2)
        RateLimitedLogger(log).warning("noisy", key="k")
        name: str = step.name
        assert name == "step"
    with telemetry.open("folder", console="json"):
        jobs.labels("ok").inc()
    with telemetry.open(Path("folder"), console="text"), ContextExecutor(1) as pool:
        future = pool.submit(function, 1)
        carried: str = carry(function)(2)
        assert (future.result(), carried) == ("1", "2")
    telemetry.keep_open("folder", console="off")
    assert callable(wrapped(wsgi_metrics))
    traces: list[Trace] = get_recent(5)
    spans: list[Span] = traces[0].spans
    assert isinstance(spans, list)


def refuse() -> None:
    """Mistakes that a type checker finds; they are not run."""
    trace(5)  # type: ignore[arg-type]
    telemetry.open(5)  # type: ignore[arg-type]
    telemetry.open(console="loud")  # type: ignore[arg-type]
    function("a")  # type: ignore[arg-type]
    log.bind("user")  # type: ignore[call-arg]
    fields({"a": 1})  # type: ignore[call-arg]
    bound.inof("misspelled")  # type: ignore[attr-defined]
    get_recent("5")  # type: ignore[arg-type]


if __name__ == "__main__":
    use()
    telemetry_open = telemetry.opened()
    assert telemetry_open is not None
    telemetry_open.close()
    asyncio.run(use_async())
    sys.exit(0)
