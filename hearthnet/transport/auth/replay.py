"""Remembers accepted signatures, so that a request is executed once.

Freshness is judged by the wall clock, which may be set back: what had expired is then fresh again. So no signature is
forgotten for its age. They are kept by sender and by the second in which the request says it was signed. When a
sender's share is full its oldest second is dropped as a whole, if it has expired, and that second and all before it are
closed: whatever says it was signed then is refused, remembered or not. A request is new or it is refused, whatever the
clock does. When nothing can be dropped the request is refused as well.

Only verified requests come here, so every sender is a member, and a member that calls without end fills its own share.
A restart goes on with what the journal holds. Where that may miss records, all that was signed before it is closed.

A signature takes 98 bytes at most: 1.6 MB a member, 26 MB in all. A request takes 4 us, half of it for the journal.
Calls once a second are remembered for four hours, the node's own for 36. Signatures are no secrets, so comparing them
need not take constant time.
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

# More than the soft limit of a peer (100 a second) for as long as a request can be fresh: 60 s, and 60 s more where the
# sender's clock is ahead. Only who goes on calling after it was told not to comes to the end of it.
MAX_OF_SENDER: Final = 16_384
# Twice what one process can verify in as long; the node's own key has no rate and may fill half of it.
MAX_OF_ALL: Final = 262_144
_NEVER: Final = -1
_CLOSED: Final = 0  # in a record, in place of a signature: this second and all before it are closed
_EVERYBODY: Final = 0  # in place of a sender


class _Seen:
    """The signatures of one sender by second; everything up to `closed_s` is closed."""

    __slots__ = ("closed_s", "count", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[int, set[int]] = {}
        self.count = 0
        self.closed_s = _NEVER

    def forget_before(self, expired_s: float, wanted: int) -> int:
        """Forgets the oldest seconds that ended by `expired_s` until `wanted` signatures are gone; returns how many."""
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
    """The memory of one node. Used in one thread, that of the event loop.

    Args:
        own: our node id, whose share is half of all: its rate is not limited.
        clock: seconds of the wall clock, by which requests are fresh or not.
        max_of_sender: signatures of one sender.
        max_of_all: signatures of all of them.
        journal: keeps what is accepted, over restarts; None: a restart forgets.
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
        """Remembers the signature of a request that was verified.

        Args:
            sender: full node id of a member.
            signature: in its one spelling.
            signed_s: the time that the request says, seconds since the epoch; it has been found fresh.

        Returns:
            `new`: answer it. `replayed`: it was here before. `closed`: it may have been. `full`: there is no room to
            remember it, now.
        """
        by, second, signed = _hash(sender), int(signed_s), _hash(signature)
        seen = self._of(by)
        if signed in seen.seconds.get(second, ()):
            return "replayed"
        if second <= max(seen.closed_s, self._senders[_EVERYBODY].closed_s):
            return "closed"
        if not self._has_room(by, seen):
            return "full"
        if second <= seen.closed_s:  # the room that was made is this very second's
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
        """Tells whether there is a place for one more, and makes it by what has expired if need be."""
        expired_s = self._clock() - PROTOCOL_TIMESTAMP_WINDOW_S
        share = self._max_of_all // 2 if sender == self._own else self._max_of_sender
        # After a restart it can be many too many: the journal has what was forgotten since it was rewritten.
        self._count -= seen.forget_before(expired_s, seen.count + 1 - share)
        if self._count >= self._max_of_all and int(expired_s) != self._swept_s:
            # Once a second: more has not expired since, and a flood must not have us look at everything each time.
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
        for second, sender, signature in records or ():
            seen = self._of(sender)
            if signature == _CLOSED:
                seen.closed_s = max(seen.closed_s, second)
            elif signature not in seen.seconds.get(second, ()):
                self._add(seen, second, signature)
        everybody, began_s = self._senders[_EVERYBODY], int(self._clock())
        if records is None:
            everybody.closed_s = began_s
        if not journal.rewrite(self._records()):  # perhaps the last run could not write either
            everybody.closed_s = max(everybody.closed_s, began_s)


def _hash(text: str) -> int:
    """Returns 64 bits of a sender or a signature, not 0.

    There is no key to it: who makes two signatures of one hash has its own second request refused.
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1
