"""The signatures of requests that were answered already: each is good once.

A signature may only be forgotten when the request that it is from could not be accepted any more. Which request is too
old is a question to the wall clock, and that may be set back: then what was too old is fresh again. So nothing here is
forgotten because of a clock alone. Signatures are kept by the second that their request says it was signed in, as long
as there is room; where there is none the oldest second goes as a whole, and from then on that second and all before it
are closed: whatever says it was signed then is refused, remembered or not. So a request is new, or it is refused,
whatever the clock does. While clocks go as they should, what is closed has expired anyway.

Where there is no room and nothing that has expired, the request is refused: forgetting one would open the door to its
replay. Each sender has a share, so one that calls without end closes the door to itself alone. Only what was verified
comes here, so senders are members, and nobody else can take up room.

Measured: up to 98 bytes a signature, so 1.6 MB for a member that does its worst and 26 MB for all of them; 1.7 us for a
request. Calls that come once a second are remembered for four hours, the node's own for a day and a half.

Nothing here takes the same time for every signature, nor need it: a signature is sent in the open, and is no secret.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, Literal

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S
from hearthnet.transport.last_signed import LastSigned

__all__ = ["MAX_OF_ALL", "MAX_OF_SENDER", "Replays", "Verdict"]

Verdict = Literal["new", "replayed", "closed", "full"]

# More than the soft limit of a peer (100 a second) for as long as a request can be fresh: 60 s, and 60 s more where the
# sender's clock is ahead. Only who goes on calling after it was told not to comes to the end of it.
MAX_OF_SENDER: Final = 16_384
# Twice what one process can verify in as long; the node's own key has no rate and may fill half of it.
MAX_OF_ALL: Final = 262_144
_DIGEST_BYTES: Final = 8
_NEVER: Final = -1


class _Seen:
    """What one sender's requests were signed with, by the second that they say; everything up to `closed_s` is gone."""

    __slots__ = ("closed_s", "count", "seconds")

    def __init__(self, closed_s: int) -> None:
        self.seconds: dict[int, set[int]] = {}
        self.count = 0
        self.closed_s = closed_s

    def forget_before(self, expired_s: float, wanted: int) -> int:
        """Forgets the oldest seconds that ended by `expired_s` until `wanted` signatures are gone; returns how many."""
        gone = 0
        for second in sorted(self.seconds):
            if gone >= wanted or second + 1 > expired_s:
                break
            gone += len(self.seconds.pop(second))
            self.closed_s = max(self.closed_s, second)
        self.count -= gone
        return gone


class Replays:
    """Remembers signatures, and tells those that come again. Used in one thread, that of the event loop.

    Args:
        own: our node id, whose share is half of all: its rate is not limited.
        clock: seconds of the wall clock, by which requests are fresh or not.
        monotonic: seconds that never jump.
        max_of_sender: signatures of one sender.
        max_of_all: signatures of all of them.
        last: tells what earlier runs may have answered, and the next one what this did; None: only the clock does.
    """

    def __init__(
        self,
        own: str = "",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        max_of_sender: int = MAX_OF_SENDER,
        max_of_all: int = MAX_OF_ALL,
        last: LastSigned | None = None,
    ) -> None:
        self._own = own
        self._clock = clock
        self._monotonic = monotonic
        self._max_of_sender = max_of_sender
        self._max_of_all = max_of_all
        self._last = last
        self._senders: dict[str, _Seen] = {}
        self._count = 0
        self._swept_s = _NEVER
        # Of our own for each process: nobody can look for two signatures that are one to us.
        self._secret = os.urandom(32)
        # What an earlier run saw is not known. Its requests were signed before this one began, but for those of clocks
        # that are ahead, which `last` knows of; and after two minutes none of them is fresh.
        self._began_s = int(clock())
        self._began_mono_s = monotonic()

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
        seen = self._senders.get(sender)
        if seen is None:
            seen = self._senders[sender] = _Seen(_NEVER)
        second = int(signed_s)
        digest = self._digest(signature)
        kept = seen.seconds.get(second)
        if kept is not None and digest in kept:
            return "replayed"
        if second <= seen.closed_s or self._is_of_an_earlier_run(sender, second):
            return "closed"
        if not self._has_room(seen, sender):
            return "full"
        if second <= seen.closed_s:  # the room that was made is this very second's
            return "closed"
        seen.seconds.setdefault(second, set()).add(digest)
        seen.count += 1
        self._count += 1
        if self._last is not None:
            self._last.note(sender, second)
        return "new"

    def _digest(self, signature: str) -> int:
        made = blake2b(signature.encode(), digest_size=_DIGEST_BYTES, key=self._secret)
        return int.from_bytes(made.digest(), "little")

    def _is_of_an_earlier_run(self, sender: str, second: int) -> bool:
        if self._last is not None and self._last.was_before(sender, second):
            return True
        if second >= self._began_s:
            return False
        return self._monotonic() - self._began_mono_s <= 2 * PROTOCOL_TIMESTAMP_WINDOW_S

    def _has_room(self, seen: _Seen, sender: str) -> bool:
        """Tells whether there is a place for one more, and makes it by what has expired if need be."""
        expired_s = self._clock() - PROTOCOL_TIMESTAMP_WINDOW_S
        share = self._max_of_all // 2 if sender == self._own else self._max_of_sender
        if seen.count >= share:
            self._count -= seen.forget_before(expired_s, 1)
        if self._count >= self._max_of_all and int(expired_s) != self._swept_s:
            # Once a second: more has not expired since, and a flood must not have us look at everything each time.
            self._swept_s = int(expired_s)
            self._count -= sum(one.forget_before(expired_s, one.count) for one in self._senders.values())
        return seen.count < share and self._count < self._max_of_all
