"""All open connections: how many there may be, how long each may wait, and which one goes when there is no room.

A stranger who holds connections open must not keep out those who have something to say. So a full server does not
refuse: the connection that has waited longest for its request to arrive is closed for the newcomer. Only where a
request is at work on every connection is the newcomer told to come back.

One sweep a second ends what takes too long: no timer per connection, nothing per piece of data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from hearthnet.transport.admission.refusals import note_refused

__all__ = ["CONNECTION", "Connection", "Connections", "Peer"]

CONNECTION: Final = "hearthnet.connection"  # the `Connection` of a request, in the state of its scope

REQUEST_S: Final = 10.0  # from the first byte of a request to its last, and for a new connection to say anything
# What a large body may take beyond that, where `max_body_bytes` allows one: 4 Mbit/s is a poor wireless network.
SLOWEST_BYTES_PER_S: Final = 500_000
# Bodies that have begun to arrive, of all connections together, in units of the largest allowed one. Whoever claims a
# member's name has 1 MB read: 150 such bodies without their last bytes had the node grow by 150 MB.
LARGEST_BODIES_HELD: Final = 8
STALL_S: Final = 10.0  # a response of which the client takes nothing for so long is given up


class Peer(Protocol):
    """What a connection can be told to do."""

    def abort(self) -> None:
        """Closes at once and drops what was not sent yet."""

    def expire(self) -> None:
        """Responds that the request took too long, if one has begun; then closes."""

    def unsent_bytes(self) -> int:
        """Returns how much of a response waits for the client to read."""

    def is_reading(self) -> bool:
        """Returns False while the server itself holds the request back."""


class Connection:
    """One connection, from the moment it is accepted.

    Attributes:
        host: address of the client, for the log.
        peer: takes the orders of `Connections`; None for a moment after the accept.
        since: monotonic seconds; when it began to wait, or its request to arrive.
        arrived_at: see `Load.arrive`.
        held_bytes: of a body that has not arrived completely.
        unsent_bytes: at the last sweep.
        stalled_since: monotonic seconds; its response has not become shorter since then. None: nothing is unsent.
    """

    __slots__ = ("arrived_at", "held_bytes", "host", "peer", "since", "stalled_since", "unsent_bytes")

    def __init__(self, host: str, since: float) -> None:
        self.host = host
        self.peer: Peer | None = None
        self.since = since
        self.arrived_at: float | None = None
        self.held_bytes = 0
        self.unsent_bytes = 0
        self.stalled_since: float | None = None


class Connections:
    """The connections of one server.

    Args:
        most: how many there may be.
        largest_body: bytes; bounds the time of a request, and the memory of those that have begun to arrive.
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(self, most: int, largest_body: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._request_s = max(REQUEST_S, largest_body / SLOWEST_BYTES_PER_S)
        self._most_held_bytes = LARGEST_BODIES_HELD * largest_body
        self._held_bytes = 0
        self._clock = clock
        # Sorted by `since`, because a connection is appended whenever it begins to wait.
        self._waiting: dict[Connection, None] = {}
        self._working: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def admit(self, host: str) -> Connection | None:
        """Returns a new connection, for which another one may have been evicted, or None without room. Takes 2 µs."""
        if len(self) >= self.most and not self.evict():
            return None
        connection = Connection(host, self._clock())
        self._waiting[connection] = None
        return connection

    def evict(self) -> bool:
        """Closes the connection that has waited longest; returns False if a request is at work on each."""
        longest = next(iter(self._waiting), None)
        if longest is None:  # one whose client does not read its response is not missed either
            longest = next((one for one in self._working if one.peer and one.peer.unsent_bytes()), None)
        if longest is None:
            return False
        self._evict(longest)
        return True

    def _evict(self, connection: Connection) -> None:
        note_refused("crowded", address=connection.host)
        self.remove(connection)
        if connection.peer is not None:
            connection.peer.abort()

    def wait(self, connection: Connection) -> None:
        """Notes that a connection waits for a request from now on, or that one has begun to arrive. Takes 0.3 µs."""
        if self._forget(connection):
            connection.since = self._clock()
            self._waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """Notes that a request has arrived completely. Takes 0.2 µs."""
        if self._forget(connection):
            self._working[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forgets a connection. Idempotent."""
        self._forget(connection)

    def _forget(self, connection: Connection) -> bool:
        self._held_bytes -= connection.held_bytes
        connection.held_bytes = 0
        return self._waiting.pop(connection, connection) is None or self._working.pop(connection, connection) is None

    def hold(self, connection: Connection, size: int) -> None:
        """Counts a piece of a body; above the bound, evicts the connection that holds one for longest."""
        if connection not in self._waiting:
            return
        connection.held_bytes += size
        self._held_bytes += size
        while self._held_bytes > self._most_held_bytes:
            self._evict(next(one for one in self._waiting if one.held_bytes))

    def sweep(self) -> None:
        """Ends what takes too long; to be called once a second. Takes 0.2 µs per connection."""
        now = self._clock()
        for connection in (*self._waiting, *self._working):
            peer = connection.peer
            if peer is None:
                continue
            if self._is_stalled(connection, peer, now):
                note_refused("stalled", address=connection.host, unsent_bytes=connection.unsent_bytes)
                peer.abort()
            elif connection in self._waiting and now - connection.since >= self._request_s:
                if peer.is_reading():
                    peer.expire()
                else:  # the wait is ours, not the client's
                    connection.since = now

    def _is_stalled(self, connection: Connection, peer: Peer, now: float) -> bool:
        before, connection.unsent_bytes = connection.unsent_bytes, peer.unsent_bytes()
        if not connection.unsent_bytes:
            connection.stalled_since = None
            return False
        # A client that reads slowly makes it shorter: above 64 kB nothing is added to it.
        if connection.stalled_since is None or connection.unsent_bytes < before:
            connection.stalled_since = now
        return now - connection.stalled_since >= STALL_S
