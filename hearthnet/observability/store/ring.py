"""Decides which row a new one replaces: the oldest of whichever class holds more than its share.

A ring holds `size` rows in two classes, notable and ordinary. While it is not full, either class may use the other's
room; once full, a new row replaces the oldest of the class that is over its share, so neither can push out the newest
rows of the other. Only the keys are kept in memory, in the order of their numbers, so that those that go are all that
the table has between the first and the last of them; rebuilt when the store opens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hearthnet.constants import NOTABLE_SHARE

__all__ = ["Leaving", "Ring"]

Range = tuple[int, int, int]  # rows from this number to that one, of this class


@dataclass(frozen=True, slots=True)
class Leaving:
    """Rows that must go.

    Attributes:
        ranges: of the table's rows.
        unwritten: of the new rows, those that need not be written: a batch larger than a share evicts some of its own.
    """

    ranges: list[Range]
    unwritten: frozenset[int]


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
        _add(self._notable if notable else self._ordinary, seq)
        return self._evict()[0] if len(self) > self.size else None

    def admit_all(self, rows: Sequence[tuple[int, int]]) -> Leaving:
        """Takes the `(seq, notable)` of new rows, oldest first, and returns which rows must go for them."""
        rows = sorted(rows)  # threads may hand over out of the order of their numbers
        if self._is_plain(rows):
            gone = [self._ordinary.popleft() for _ in rows]
            self._ordinary.extend([seq for seq, _ in rows])
            return Leaving([(gone[0], gone[-1], 0)], frozenset())
        leaving: tuple[list[int], list[int]] = ([], [])
        for key, notable in self._surplus():
            leaving[notable].append(key)
        for seq, notable in rows:
            _add(self._notable if notable else self._ordinary, seq)
            if len(self) > self.size:
                key, was_notable = self._evict()
                leaving[was_notable].append(key)
        new = {seq for seq, _ in rows}
        return Leaving(_ranges(leaving), frozenset(new.intersection([*leaving[0], *leaving[1]])))

    def _is_plain(self, rows: Sequence[tuple[int, int]]) -> bool:
        """Tells whether each of `rows` just replaces the oldest ordinary one: the everyday case, 0.1 us a row."""
        return (
            len(self) == self.size
            and self._ordinary_share <= len(self._ordinary)
            and 0 < len(rows) <= len(self._ordinary)
            and self._ordinary[-1] < rows[0][0]
            and not any([notable for _, notable in rows])  # noqa: C419  # a list is faster, and nearly always read to its end
        )

    def _evict(self) -> tuple[int, int]:
        # One row too many: if the ordinary are not over their share, the notable are.
        if len(self._ordinary) > self._ordinary_share:
            return self._ordinary.popleft(), 0
        return self._notable.popleft(), 1

    def _surplus(self) -> Iterator[tuple[int, int]]:
        while len(self) > self.size:
            yield self._evict()

    def give_up(self, count: int) -> Leaving:
        """Returns `count` rows that go for want of space, each class giving in proportion to its share."""
        leaving: tuple[list[int], list[int]] = ([], [])
        for _ in range(min(count, len(self))):
            is_over = len(self._ordinary) * self.size >= len(self) * self._ordinary_share
            notable = 0 if self._ordinary and (is_over or not self._notable) else 1
            leaving[notable].append((self._notable if notable else self._ordinary).popleft())
        return Leaving(_ranges(leaving), frozenset())

    def shrink(self) -> list[int]:
        """Returns the keys that must go because the table holds more than the ring's size."""
        return [key for key, _ in self._surplus()]


def _add(keys: deque[int], seq: int) -> None:
    """Adds a key in its place, which is the end or, for one that a thread was slow to hand over, a little before."""
    place = len(keys)
    while place and keys[place - 1] > seq:
        place -= 1
    keys.insert(place, seq)


def _ranges(leaving: tuple[list[int], list[int]]) -> list[Range]:
    # A class gives up its oldest: all of its rows from the lowest of these to the highest.
    return [(min(keys), max(keys), notable) for notable, keys in enumerate(leaving) if keys]
