"""A bounded queue from any thread to one writer: when it is full, the oldest record is dropped and counted.

Guarantees:
    - `offer` takes no lock and never waits, unless it must drop a record.
    - Every record offered is, at any moment, in exactly one of: the queue, the batch in flight, the committed rows,
      the count of dropped records.
    - A record leaves only after `confirm`, so a commit that fails loses nothing.
Assumes:
    - `deque.append`, `deque.popleft` and `list(deque)` are atomic (CPython's interpreter lock; its C code runs no
      Python between two items).
    - One thread calls `take`, `confirm` and `take_dropped`.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Buffer"]

T = TypeVar("T")


class Buffer(Generic[T]):
    """Holds at most `capacity` records that the writer has not committed yet."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self._queue: deque[T] = deque()
        self._in_flight: list[T] = []
        self._dropped = 0
        # Re-entrant: a signal handler may log while its own thread is here.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._queue) + len(self._in_flight)

    def offer(self, record: T) -> int:
        """Appends a record, dropping the oldest if full. Returns the number of records held. 0.1 us."""
        self._queue.append(record)
        count = len(self._queue) + len(self._in_flight)
        if count > self.capacity:
            self._evict()
        return count

    def _evict(self) -> None:
        with self._lock:
            # Only from the queue: the batch in flight may be committed already.
            while self._queue and len(self._queue) + len(self._in_flight) > self.capacity:
                try:
                    self._queue.popleft()
                except IndexError:  # the writer took the rest between the check and the call
                    return
                self._dropped += 1

    def take(self, limit: int) -> list[T]:
        """Returns the oldest records, at most `limit`, beginning with those of a batch that was never confirmed."""
        with self._lock:
            self.put_back(limit)
            # The queue only shrinks under this lock, so it holds at least as many as were counted.
            missing = min(limit - len(self._in_flight), len(self._queue))
            popleft = self._queue.popleft
            self._in_flight.extend([popleft() for _ in range(missing)])
            return list(self._in_flight)

    def put_back(self, keep: int) -> None:
        """Returns all but the oldest `keep` records of the batch last taken to the queue's head."""
        with self._lock:
            self._queue.extendleft(reversed(self._in_flight[keep:]))
            del self._in_flight[keep:]

    def confirm(self) -> None:
        """Removes the batch last taken: it is committed."""
        with self._lock:
            self._in_flight.clear()

    def snapshot(self) -> list[T]:
        """Returns the records that are not committed, oldest first."""
        with self._lock:
            return [*self._in_flight, *self._queue]

    def take_dropped(self) -> int:
        """Returns the number of records dropped since the last call."""
        with self._lock:
            lost, self._dropped = self._dropped, 0
            return lost
