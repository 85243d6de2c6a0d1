"""Runs the same work in several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def at_once(work: Callable[[T], object], each: Iterable[T]) -> None:
    """Calls `work` with each of these, in as many threads, which start together; raises what one of them raised."""
    given = list(each)
    start = threading.Barrier(len(given))

    def begin(one: T) -> None:
        start.wait()
        work(one)

    with ThreadPoolExecutor(len(given)) as pool:
        list(pool.map(begin, given))
