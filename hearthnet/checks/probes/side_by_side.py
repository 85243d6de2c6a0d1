"""Asks several places of the network at once, and waits for all of them together, not for one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, TypeVar

__all__ = ["MAX_PLACES", "ask_all"]

MAX_PLACES: Final = 16  # nobody configures more on purpose; each costs a thread

P = TypeVar("P")
A = TypeVar("A")


def ask_all(ask: Callable[[P], A], places: Sequence[P], within_s: float) -> list[A | None]:
    """Returns what `ask` gave for each of the first `MAX_PLACES`; None where it was not back within `within_s` seconds.

    Raises:
        Exception: raised is the first that `ask` raised: it knows which errors are an answer, so another is a mistake.
    """
    places = places[:MAX_PLACES]
    finished: queue.SimpleQueue[tuple[int, A | Exception]] = queue.SimpleQueue()

    def run(number: int) -> None:
        try:
            finished.put((number, ask(places[number])))
        except Exception as error:  # the border of the thread; it is raised where it was asked for  # noqa: BLE001
            finished.put((number, error))

    for number in range(len(places)):
        # Daemons: a name server that does not answer holds one for many seconds, and nothing can end it sooner.
        threading.Thread(target=run, args=(number,), name=f"doctor-ask-{number}", daemon=True).start()
    answers: list[A | None] = [None] * len(places)
    ends_at = monotonic() + within_s
    for _ in places:
        try:
            number, answer = finished.get(timeout=max(0.0, ends_at - monotonic()))
        except queue.Empty:
            break
        if isinstance(answer, Exception):
            raise answer
        answers[number] = answer
    return answers
