"""Decides which row a new one replaces: the oldest of whichever class holds more than its share.

A ring holds `size` rows in two classes, notable and ordinary. While it is not full, either class may use the other's
room; once full, a new row replaces the oldest of the class that is over its share, so neither can push out the newest
rows of the other. Only the keys are kept in memory, oldest first; rebuilt when the store opens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hearthnet.constants import NOTABLE_SHARE

__all__ = ["Ring"]


class Ring:
    """The keys of one table's rows.

    Args:
        size: rows at most.
        rows: `(seq, notable)` of the rows that are there, oldest first.
        notable_share: the part of `size` that is reserved for notable rows; the rest is for ordinary ones.
    """

    def __init__(self, size: int, rows: Iterable[tuple[int, int]] = (), notable_share: float = NOTABLE_SHARE) -> None:
        self.size = size
        self._ordinary_share = size - int(size * notable_share)
        self._ordinary: deque[int] = deque()
        self._notable: deque[int] = deque()
        for seq, notable in rows:
            (self._notable if notable else self._ordinary).append(seq)

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._notable)

    def admit(self, seq: int, notable: int) -> int | None:
        """Takes the key of a new row and returns the key of the row that must go for it, or None."""
        (self._notable if notable else self._ordinary).append(seq)
        return self._evict() if len(self) > self.size else None

    def _evict(self) -> int:
        # One row too many: if the ordinary are not over their share, the notable are.
        over = self._ordinary if len(self._ordinary) > self._ordinary_share else self._notable
        return over.popleft()

    def give_up(self, count: int) -> list[int]:
        """Returns the keys of `count` rows that go for want of space, each class giving in proportion to its share."""
        gone = []
        for _ in range(min(count, len(self))):
            is_over = len(self._ordinary) * self.size >= len(self) * self._ordinary_share
            over = self._ordinary if self._ordinary and (is_over or not self._notable) else self._notable
            gone.append(over.popleft())
        return gone

    def shrink(self) -> list[int]:
        """Returns the keys that must go because the table holds more than the ring's size."""
        return [self._evict() for _ in range(len(self) - self.size)]
