"""Probes several network targets in parallel, with one deadline for all."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, TypeVar

__all__ = ["MAX_TARGETS", "probe_all"]

MAX_TARGETS: Final = 16  # more are hardly configured on purpose; each costs a thread

T = TypeVar("T")
R = TypeVar("R")


def probe_all(probe: Callable[[T], R], targets: Sequence[T], within_s: float) -> list[R | None]:
    """Returns the result of `probe` for each of the first `MAX_TARGETS`; None if it took longer than `within_s`.

    Raises:
        Exception: the first one that `probe` raises. It handles expected errors itself, so this one is a bug.
    """
    targets = targets[:MAX_TARGETS]
    finished: queue.SimpleQueue[tuple[int, R | Exception]] = queue.SimpleQueue()

    def run(number: int) -> None:
        try:
            finished.put((number, probe(targets[number])))
        except Exception as error:  # raised again in the calling thread  # noqa: BLE001
            finished.put((number, error))

    for number in range(len(targets)):
        # Daemons: an unresponsive name server blocks one for many seconds, and nothing can end it sooner.
        threading.Thread(target=run, args=(number,), name=f"doctor-ask-{number}", daemon=True).start()
    results: list[R | None] = [None] * len(targets)
    ends_at = monotonic() + within_s
    for _ in targets:
        try:
            number, result = finished.get(timeout=max(0.0, ends_at - monotonic()))
        except queue.Empty:
            break
        if isinstance(result, Exception):
            raise result
        results[number] = result
    return results
