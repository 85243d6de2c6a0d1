"""Waits for a condition, and measures in CPU time: neither depends on how busy the machine is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 60.0  # of a machine that is busy with something else; a test that passes never waits so long


def wait_until(condition: Callable[[], T], otherwise: object = None, timeout_s: float = PATIENCE_S) -> T:
    """Returns what the condition returns as soon as that is true; fails with `otherwise`, called if it can be."""
    ends_at = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > ends_at:
            raise AssertionError(otherwise() if callable(otherwise) else otherwise or f"not within {timeout_s:g} s")
        threading.Event().wait(0.01)
    return found


async def until(condition: Callable[[], T], otherwise: object = None, timeout_s: float = PATIENCE_S) -> T:
    """Does the same while the caller's event loop runs."""
    ends_at = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > ends_at:
            raise AssertionError(otherwise() if callable(otherwise) else otherwise or f"not within {timeout_s:g} s")
        await a_moment()
    return found


async def a_moment() -> None:
    """Waits before a condition is looked at again."""
    await asyncio.sleep(0.01)


def nothing_happens(for_s: float) -> None:
    """Lets time pass where a test shows that something does not happen, or that time passes: nothing else can."""
    threading.Event().wait(for_s)


def cpu_s(work: Callable[[], object], times: int = 1) -> float:
    """Returns the CPU seconds of this thread for the cheapest of several runs."""

    def once() -> float:
        started = time.thread_time()
        work()
        return time.thread_time() - started

    return min(once() for _ in range(times))
