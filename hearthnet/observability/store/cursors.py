"""How far the export has come, on its way into the database: the writer commits it with its next transaction.

One connection of a process writes, that of the writer; so the exporter's thread leaves here what it has sent. A cursor
is a seq, in the table `state`: seq is given in the order of commits, so no row ever appears below it.

Guarantees:
    - A cursor moves only from where it was: in a database that took the place of the one that was read, it stays.
    - What a failed commit did not write is written by the next; what it wrote all the same is not written again.
    - A row that is evicted while it is being sent counts as lost, and no more once it is accepted.
Assumes:
    - One thread calls `begin`, `end`, `fly`, `land`, `move` and `tell_lost`, the writer's the rest.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hearthnet.observability.store.ring import State

__all__ = ["Cursors", "Evicted", "Moves"]


@dataclass(slots=True)
class Moves:
    """Moves to be committed.

    Attributes:
        begun: tables whose rows are exported from now on.
        ended: tables whose rows are not, any more.
        ranges: by table, from which seq to which the cursor moves.
        told: by table, how many evicted rows the backend has been told of.
    """

    begun: set[str] = field(default_factory=set)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def apply(self, state: State) -> None:
        """Puts them into the state that a transaction writes."""
        for table in self.begun:
            state.begin_export(table)
        for table in self.ended:
            state.end_export(table)
        for table, (start, end) in self.ranges.items():
            state.move_cursor(table, start, end)
        for table, count in self.told.items():
            state.tell_lost(table, count)

    def end_of(self, table: str, saved: int) -> int:
        """Returns where a table's cursor will be that the database has at `saved`."""
        start, end = self.ranges.get(table, (saved, saved))
        return end if start == saved else saved


Evicted = list[tuple[str, list[int]]]  # by table, seqs of rows


class Cursors:
    """The moves that are not committed yet.

    Attributes:
        has_moves: whether there are any.
        has_tried: whether a marked transaction may have been written although its COMMIT failed.
    """

    def __init__(self) -> None:
        self.has_moves = False
        self.has_tried = False
        self._lock = threading.Lock()
        self._pending = Moves()
        self._flying: dict[str, set[int]] = {}  # by table, the rows that were sent last
        self._evicted: dict[str, set[int]] = {}  # those of them that were evicted, and count as lost
        self._landed: dict[str, int] = {}  # by table, up to which seq they were accepted
        self._tried: tuple[int, Moves | None, Evicted] | None = None  # a marked transaction whose COMMIT was begun
        self._is_wanted = False
        self._committed = threading.Event()

    def begin(self, table: str) -> None:
        """Begins the export of a table, unless the database has begun it."""
        with self._lock:
            self._pending.begun.add(table)
            self._pending.ended.discard(table)
            self.has_moves = True

    def end(self, table: str) -> None:
        """Ends the export of a table, if it has begun: its evicted rows are no loss. Its cursor is kept."""
        with self._lock:
            self._pending.ended.add(table)
            self._pending.begun.discard(table)
            self.has_moves = True

    def fly(self, table: str, seqs: Iterable[int]) -> None:
        """Notes which rows are being sent."""
        with self._lock:
            self._flying[table], self._evicted[table] = set(seqs), set()
            self._landed.pop(table, None)

    def land(self, table: str, end: int) -> None:
        """Notes that of the rows that were sent those up to `end` are accepted, or skipped."""
        with self._lock:
            self._landed[table] = end
            self._tell_landed(table)

    def move(self, table: str, start: int, end: int) -> None:
        """Moves a table's cursor."""
        with self._lock:
            first, last = self._pending.ranges.get(table, (start, start))
            self._pending.ranges[table] = (first if last == start else start, end)
            self.has_moves = True

    def _tell_landed(self, table: str) -> None:
        """Takes evicted rows off the count of those lost, once they are accepted all the same."""
        evicted, end = self._evicted.get(table, set()), self._landed.get(table, 0)
        landed = {seq for seq in evicted if seq <= end}
        if landed:
            self._evicted[table] = evicted - landed
            self._pending.told[table] = self._pending.told.get(table, 0) + len(landed)
            self.has_moves = True

    def tell_lost(self, table: str, count: int) -> None:
        """Notes that the backend has been told of evicted rows."""
        with self._lock:
            self._pending.told[table] = self._pending.told.get(table, 0) + count
            self.has_moves = True

    def save(self, wake: Callable[[], None], timeout_s: float) -> bool:
        """Has the writer commit now; returns whether everything is committed, `timeout_s` later at the most."""
        with self._lock:
            self._committed.clear()
            self._is_wanted = self.has_moves
        if not self._is_wanted:
            return True
        wake()
        self._committed.wait(timeout_s)
        return not self.has_moves

    # --- in the writer's thread

    def is_due(self, *, is_last: bool) -> bool:
        """Returns whether the moves are worth a transaction of their own: they are wanted, or it is the last one."""
        return self.has_moves and (self._is_wanted or is_last)

    def take(self) -> Moves:
        """Returns a copy of the moves."""
        with self._lock:
            pending = self._pending
            return Moves(set(pending.begun), dict(pending.ranges), dict(pending.told), set(pending.ended))

    def last_sent(self, table: str) -> int:
        """Returns the highest seq of the rows that were sent last; 0: none were."""
        with self._lock:
            return max(self._flying.get(table, ()), default=0)

    def note_evicted(self, table: str, seqs: Iterable[int]) -> None:
        """Notes rows that were evicted above the cursor, once that is committed."""
        with self._lock:
            self._evicted.setdefault(table, set()).update(self._flying.get(table, set()).intersection(seqs))
            self._tell_landed(table)

    def applied(self, state: State) -> Moves:
        """Puts the moves into the state that a transaction writes, and returns them, for `confirm`."""
        moves = self.take()
        moves.apply(state)
        return moves

    def note_tried(self, state: State, run_id: str, moves: Moves | None, evicted: Evicted) -> None:
        """Marks a transaction that must not be repeated: its COMMIT may fail, and be written all the same."""
        if evicted or (moves is not None and moves.told):
            self._tried, self.has_tried = (state.mark(run_id), moves, list(evicted)), True

    def settle_tried(self, state: State, run_id: str) -> None:
        """Confirms the last transaction if its COMMIT failed, but the database has it."""
        tried, self._tried, self.has_tried = self._tried, None, False
        if tried is not None and state.marks(run_id) == tried[0]:
            self.committed(*tried[1:])

    def committed(self, moves: Moves | None, evicted: Evicted) -> None:
        """Notes what was evicted by a transaction that is committed, and forgets its moves."""
        self._tried, self.has_tried = None, False
        for table, seqs in evicted:
            self.note_evicted(table, seqs)
        if moves is not None:
            self.confirm(moves)

    def confirm(self, moves: Moves) -> None:
        """Forgets moves that are committed; those made meanwhile stay."""
        with self._lock:
            pending = self._pending
            pending.begun -= moves.begun
            pending.ended -= moves.ended
            for table, (_, end) in moves.ranges.items():
                now = pending.ranges[table]
                if now[1] == end:
                    del pending.ranges[table]
                else:
                    pending.ranges[table] = (end, now[1])
            for table, count in moves.told.items():
                pending.told[table] -= count
                if not pending.told[table]:
                    del pending.told[table]
            self.has_moves = bool(pending.begun or pending.ranges or pending.told or pending.ended)
            self._is_wanted = self._is_wanted and self.has_moves
            self._committed.set()
