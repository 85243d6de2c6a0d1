"""Decides which row a new one replaces: the oldest of the class that holds more than its share.

A ring holds `size` rows in two classes, notable and ordinary. While it is not full, either class may use the other's
slots; once full, a new row replaces the oldest of the class that is over its share, so neither class can evict the
newest rows of the other. Only the keys are kept in memory, in the order of their numbers, so that the rows to evict are
all that the table has between the first and the last of them. The ring is read from the table when the store opens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hearthnet.constants import NOTABLE_SHARE

__all__ = ["Evicted", "Range", "Ring"]

Range = tuple[int, int, int]  # first number, last number, class: all rows of that class in between


@dataclass(frozen=True, slots=True)
class Evicted:
    """Rows to delete.

    Attributes:
        ranges: of rows of the table.
        unwritten: numbers of new rows that need not be written: a batch larger than a share evicts some of its own.
    """

    ranges: list[Range]
    unwritten: frozenset[int]


class Ring:
    """The keys of one table's rows.

    Args:
        size: the highest number of rows.
        rows: `(seq, notable)` of the rows in the table, oldest first.
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
        """Adds the key of a new row and returns the key of the row that it evicts, or None."""
        _add(self._notable if notable else self._ordinary, seq)
        return self._evict()[0] if len(self) > self.size else None

    def admit_all(self, rows: Sequence[tuple[int, int]]) -> Evicted:
        """Adds the `(seq, notable)` of new rows, oldest first, and returns the rows that they evict."""
        rows = sorted(rows)  # threads may hand over out of the order of their numbers
        if self._is_plain(rows):
            keys = [self._ordinary.popleft() for _ in rows]
            self._ordinary.extend([seq for seq, _ in rows])
            return Evicted([(keys[0], keys[-1], 0)], frozenset())
        evicted: tuple[list[int], list[int]] = ([], [])
        for key, notable in self._surplus():
            evicted[notable].append(key)
        for seq, notable in rows:
            _add(self._notable if notable else self._ordinary, seq)
            if len(self) > self.size:
                key, was_notable = self._evict()
                evicted[was_notable].append(key)
        new = {seq for seq, _ in rows}
        return Evicted(_ranges(evicted), frozenset(new.intersection([*evicted[0], *evicted[1]])))

    def _is_plain(self, rows: Sequence[tuple[int, int]]) -> bool:
        """Returns True if each of `rows` just replaces the oldest ordinary row: the usual case, 0.1 us per row."""
        return (
            len(self) == self.size
            and self._ordinary_share <= len(self._ordinary)
            and 0 < len(rows) <= len(self._ordinary)
            and self._ordinary[-1] < rows[0][0]
            and not any([notable for _, notable in rows])  # noqa: C419  # a list is faster, and nearly always read to its end
        )

    def _evict(self) -> tuple[int, int]:
        # There is one row too many: if the ordinary rows are within their share, the notable ones are not.
        if len(self._ordinary) > self._ordinary_share:
            return self._ordinary.popleft(), 0
        return self._notable.popleft(), 1

    def _surplus(self) -> Iterator[tuple[int, int]]:
        while len(self) > self.size:
            yield self._evict()

    def evict_oldest(self, count: int) -> Evicted:
        """Evicts `count` rows because the disk has no space, from each class in proportion to its share."""
        evicted: tuple[list[int], list[int]] = ([], [])
        for _ in range(min(count, len(self))):
            is_over = len(self._ordinary) * self.size >= len(self) * self._ordinary_share
            notable = 0 if self._ordinary and (is_over or not self._notable) else 1
            evicted[notable].append((self._notable if notable else self._ordinary).popleft())
        return Evicted(_ranges(evicted), frozenset())

    def shrink(self) -> list[int]:
        """Returns the keys of the rows that are beyond the ring's size, evicted."""
        return [key for key, _ in self._surplus()]


def _add(keys: deque[int], seq: int) -> None:
    """Inserts a key in order: at the end or, if a thread was slow to hand its record over, a little before."""
    at = len(keys)
    while at and keys[at - 1] > seq:
        at -= 1
    keys.insert(at, seq)


def _ranges(evicted: tuple[list[int], list[int]]) -> list[Range]:
    # A class loses its oldest rows: all of them from the lowest of these keys to the highest.
    return [(min(keys), max(keys), notable) for notable, keys in enumerate(evicted) if keys]
