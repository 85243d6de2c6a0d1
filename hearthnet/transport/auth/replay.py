"""Replay protection: remembers accepted signatures, so that a request is executed only once.

Freshness depends on the wall clock, which may be set back: expired requests are then fresh again. So no signature is
forgotten for its age. Signatures are kept by sender and by the second of the request's timestamp. When a sender's share
is full, its oldest expired second is dropped as a whole, and that second and all before it are closed: a request with a
timestamp in a closed second is refused, remembered or not. So a request is new or refused, whatever the clock does.
When nothing can be dropped the request is refused as well.

Only verified requests are recorded, so every sender is a member, and a member that floods fills only its own share. A
restart continues with the journal. If the journal may lack records, all seconds before the restart are closed.

A signature takes 98 bytes at most: 1.6 MB per member, 26 MB in all. A request takes 4 us, half of it for the journal.
At one call per second, signatures are kept for four hours, the node's own for 36. They are not secret, so comparing
them need not take constant time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Final, Literal

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S
from hearthnet.transport.auth.replay_journal import Record, ReplayJournal

__all__ = ["MAX_OF_ALL", "MAX_OF_SENDER", "Replays", "Verdict"]

Verdict = Literal["new", "replayed", "closed", "full"]

# More than the soft limit of a node (100 a second) for as long as a request can be fresh: 60 s, and 60 s more where the
# sender's clock is ahead. Only a caller that ignores refusals reaches it.
MAX_OF_SENDER: Final = 16_384
# Twice what one process can verify in that time; the node's own key has no rate limit and may fill half of it.
MAX_OF_ALL: Final = 262_144
_NEVER: Final = -1
_CLOSED: Final = 0  # in a record, instead of a signature: this second and all before it are closed
_FARTHEST_S: Final = 366 * 86_400  # no clock is ahead by more
_EVERYBODY: Final = 0  # in a record, instead of a sender: all senders


class _Seen:
    """The signatures of one sender by second; all seconds up to `closed_s` are closed."""

    __slots__ = ("closed_s", "count", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[int, set[int]] = {}
        self.count = 0
        self.closed_s = _NEVER

    def forget_before(self, expired_s: float, wanted: int) -> int:
        """Drops the oldest seconds that ended by `expired_s` until `wanted` signatures are gone; returns how many."""
        if wanted <= 0:
            return 0
        gone = 0
        for second in sorted(self.seconds):
            if gone >= wanted or second + 1 > expired_s:
                break
            gone += len(self.seconds.pop(second))
            self.closed_s = max(self.closed_s, second)
        self.count -= gone
        return gone


class Replays:
    """The accepted signatures of one node. Used in the event loop's thread only.

    Args:
        own: our node id, whose share is half of the total: it has no rate limit.
        clock: wall clock seconds, which decide freshness.
        max_of_sender: limit on signatures of one sender.
        max_of_all: limit on signatures of all senders.
        journal: persists them over restarts; None: a restart forgets them.
    """

    def __init__(
        self,
        own: str = "",
        clock: Callable[[], float] = time.time,
        max_of_sender: int = MAX_OF_SENDER,
        max_of_all: int = MAX_OF_ALL,
        journal: ReplayJournal | None = None,
    ) -> None:
        self._own = _hash(own)
        self._clock = clock
        self._max_of_sender = max_of_sender
        self._max_of_all = max_of_all
        self._journal = journal
        self._senders = {_EVERYBODY: _Seen()}
        self._count = 0
        self._swept_s = _NEVER
        if journal is not None:
            self._restore(journal)

    def __len__(self) -> int:
        return self._count

    def take(self, sender: str, signature: str, signed_s: float) -> Verdict:
        """Records the signature of a verified request.

        Args:
            sender: full node id of a member.
            signature: in canonical spelling.
            signed_s: the request's timestamp, seconds since the epoch; already checked to be fresh.

        Returns:
            `new`: execute it. `replayed`: it was executed before. `closed`: it may have been. `full`: there is no space
            to record it at present.
        """
        by, second, signed = _hash(sender), int(signed_s), _hash(signature)
        seen = self._of(by)
        if signed in seen.seconds.get(second, ()):
            return "replayed"
        if second <= max(seen.closed_s, self._senders[_EVERYBODY].closed_s):
            return "closed"
        if not self._has_room(by, seen):
            return "full"
        if second <= seen.closed_s:  # making space closed this very second
            return "closed"
        self._add(seen, second, signed)
        if self._journal is not None and not self._journal.append((second, by, signed)):
            self._journal.rewrite(self._records())
        return "new"

    def _of(self, sender: int) -> _Seen:
        seen = self._senders.get(sender)
        if seen is None:
            seen = self._senders[sender] = _Seen()
        return seen

    def _add(self, seen: _Seen, second: int, signature: int) -> None:
        seen.seconds.setdefault(second, set()).add(signature)
        seen.count += 1
        self._count += 1

    def _has_room(self, sender: int, seen: _Seen) -> bool:
        """Returns True if there is space for one more signature, after dropping expired ones if needed."""
        expired_s = self._clock() - PROTOCOL_TIMESTAMP_WINDOW_S
        share = self._max_of_all // 2 if sender == self._own else self._max_of_sender
        # After a restart it can be far above the limit: the journal still has what was dropped since its last rewrite.
        self._count -= seen.forget_before(expired_s, seen.count + 1 - share)
        if self._count >= self._max_of_all and int(expired_s) != self._swept_s:
            # At most once a second: nothing more has expired since, and a flood must not cause a full scan each time.
            self._swept_s = int(expired_s)
            self._count -= sum(one.forget_before(expired_s, one.count) for one in self._senders.values())
        return seen.count < share and self._count < self._max_of_all

    def _records(self) -> Iterator[Record]:
        for sender, seen in self._senders.items():
            yield seen.closed_s, sender, _CLOSED
            for second, signatures in seen.seconds.items():
                for signature in signatures:
                    yield second, sender, signature

    def _restore(self, journal: ReplayJournal) -> None:
        records = journal.read()
        everybody, began_s = self._senders[_EVERYBODY], int(self._clock())
        for second, sender, signature in records or ():
            if second > began_s + _FARTHEST_S:  # damaged: it could close everything for good
                continue
            seen = self._of(sender)
            if signature == _CLOSED:
                seen.closed_s = max(seen.closed_s, second)
            elif signature not in seen.seconds.get(second, ()):
                self._add(seen, second, signature)
        if records is None:
            everybody.closed_s = began_s
        if not journal.rewrite(self._records()):  # perhaps the last run could not write either
            everybody.closed_s = max(everybody.closed_s, began_s)


def _hash(text: str) -> int:
    """Returns a 64-bit hash of a sender or a signature, never 0.

    The hash has no key: a sender that finds a collision only has its own second request refused.
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1
