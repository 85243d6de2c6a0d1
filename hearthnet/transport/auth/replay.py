"""Memory of verified requests: their signatures, so that each is executed only once, and their senders' clocks.

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

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from time import monotonic
from typing import Final, Literal

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S
from hearthnet.files import open_regular, read_regular, replace_private
from hearthnet.observability import get_logger
from hearthnet.observability.runtime import runtime

__all__ = [
    "JOURNAL_FILE",
    "MAX_OF_ALL",
    "MAX_OF_SENDER",
    "PeerClocks",
    "Record",
    "ReplayJournal",
    "Replays",
    "Verdict",
    "peer_clocks",
]

log = get_logger(__name__)

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

Record = tuple[int, int, int]  # second since the epoch, hash of the sender, hash of the signature

JOURNAL_FILE: Final = "replays.bin"
_HEADER: Final = b"HearthNet replays 1\n"
_RECORD: Final = Struct("<qQQ")
# 87,000 records more than memory holds. A rewrite at the memory limit takes 0.1 s, so it must be rare.
_MAX_BYTES: Final = 8 * 2**20

_MAX_PEERS: Final = 256  # in a larger community not every clock is needed
_KEPT_EXPIRED: Final = 64
RECENT_S: Final = 3_600.0  # an unsynchronized clock drifts a second in days; one that was set changes at once


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


class ReplayJournal:
    """The accepted signatures on disk at `path`, so that a restart keeps its replay protection.

    The first `rewrite` creates it: a header and records of 24 bytes, hashes of public data, not secrets. Each `append`
    adds a record; at 8 MB the file is rewritten with the current contents of memory.

    Guarantees: appended records outlive the process, however it ends. File errors never stop the node: `read` and
    `rewrite` log them, and return that the journal is unreliable.
    Assumes: one node per folder, one thread. Nothing is synced, so a power loss may drop the last half minute.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._left = 0  # records until the next rewrite

    def read(self) -> Iterator[Record] | None:
        """Returns the records, oldest first, or None if some may be missing; a missing file has no records."""
        error_text = "it is not a journal"
        try:
            raw = read_regular(self._path)
        except FileNotFoundError:
            return iter(())
        except OSError as error:
            raw, error_text = b"", str(error)
        if not raw.startswith(_HEADER):
            self._warn("replay journal cannot be read; requests signed before this start are refused", error_text)
            return None
        # A kill during an append leaves a partial record, of a request that got no response.
        end = len(raw) - (len(raw) - len(_HEADER)) % _RECORD.size
        return _RECORD.iter_unpack(raw[len(_HEADER) : end])

    def append(self, record: Record) -> bool:
        """Appends a record, in 2 us; returns False on failure or when the file is full, and must be rewritten.

        Does nothing after a failed rewrite.
        """
        if self._fd is None:
            return True
        self._left -= 1
        try:
            return os.write(self._fd, _RECORD.pack(*record)) == _RECORD.size and self._left > 0
        except OSError:  # logged by the rewrite, if that fails too
            return False

    def rewrite(self, records: Iterable[Record]) -> bool:
        """Replaces the file with these records; returns False on failure, and nothing is kept from then on."""
        self.close()
        content = _HEADER + b"".join(_RECORD.pack(*record) for record in records)
        try:
            replace_private(self._path, content, is_synced=False)
            self._fd = open_regular(self._path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            self._warn("replay journal cannot be written; the next start will refuse older requests", str(error))
            with suppress(OSError):  # an empty file tells the next run that records are missing; a full disk permits it
                os.truncate(self._path, 0)
            return False
        self._left = (_MAX_BYTES - len(content)) // _RECORD.size
        return True

    def close(self) -> None:
        """Closes the file; later appends are not kept."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _warn(self, message: str, error_text: str) -> None:
        log.warning(message, extra={"path": str(self._path), "error": error_text})


class PeerClocks:
    """Clock offsets to other nodes, from the timestamps of their signed requests; kept for the doctor.

    An offset is this clock minus the other node's, in seconds: positive when this one is ahead, or when the request was
    delayed. Only fully verified requests give an offset for a node, so it is a minute at most. A request refused as
    expired is not verified: anyone may have sent it, or it may be a replay. Its offset is a hint, and kept separately.
    """

    def __init__(self) -> None:
        self._offsets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._expired: deque[tuple[float, float]] = deque(maxlen=_KEPT_EXPIRED)

    def record(self, peer: str, offset_s: float) -> None:
        """Stores the offset of a node's verified request, in seconds."""
        self._offsets[peer] = (monotonic(), offset_s)
        self._offsets.move_to_end(peer)
        if len(self._offsets) > _MAX_PEERS:
            self._offsets.popitem(last=False)

    def record_expired(self, offset_s: float) -> None:
        """Stores the offset of a request that was refused as expired, in seconds; its sender is unverified."""
        self._expired.append((monotonic(), offset_s))

    def offsets(self) -> dict[str, float]:
        """Returns the latest offset, seconds, of each node heard within the last hour."""
        since = monotonic() - RECENT_S
        return {peer: offset_s for peer, (heard_at, offset_s) in self._offsets.copy().items() if heard_at >= since}

    def recently_expired(self) -> list[float]:
        """Returns the offsets, seconds, of recent requests that were refused as expired, within the last hour."""
        since = monotonic() - RECENT_S
        return [offset_s for heard_at, offset_s in self._expired.copy() if heard_at >= since]

    def forget(self) -> None:
        """Clears everything."""
        self._offsets.clear()
        self._expired.clear()


peer_clocks: Final = PeerClocks()  # of this process
runtime.at_fork(peer_clocks.forget)
