"""The table of open connections: limits on number, waiting time and memory, and which one is evicted at the limit.

An attacker who holds connections open must not lock out callers that send requests. So a full server does not refuse:
it evicts the connection that has waited longest for its request. Only when every connection has a request at work is
the new one refused, with `retry_after_ms`.

One sweep a second ends what takes too long: no timer per connection, no work per piece of data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from hearthnet.transport.admission.refusals import count_refused

__all__ = ["CONNECTION", "Connection", "Connections", "Peer"]

CONNECTION: Final = "hearthnet.connection"  # key of a request's `Connection` in the scope's state

REQUEST_S: Final = 10.0  # from the first byte of a request to its last; also until a new connection sends anything
# A large body gets more time, where `max_body_bytes` allows one: 4 Mbit/s is a poor wireless network.
SLOWEST_BYTES_PER_S: Final = 500_000
# Limit for all partly received bodies together, in units of the largest allowed one. A request that names a member gets
# 1 MB read before its signature is checked: 150 such bodies without their last bytes grew the node by 150 MB.
LARGEST_BODIES_HELD: Final = 8
STALL_S: Final = 10.0  # a response of which the client reads nothing for this long is aborted


class Peer(Protocol):
    """The operations of a connection that `Connections` uses."""

    def abort(self) -> None:
        """Closes at once and drops unsent data."""

    def expire(self) -> None:
        """Responds with a timeout if a request has begun; then closes."""

    def unsent_bytes(self) -> int:
        """Returns how many bytes of a response wait for the client to read."""

    def is_reading(self) -> bool:
        """Returns False while the server itself has paused reading."""

    def is_closing(self) -> bool:
        """Returns whether the connection only waits for the client to read the rest of its response."""


class Connection:
    """One accepted connection.

    Attributes:
        host: address of the client, for the log.
        peer: operations on the transport; None for a moment after the accept.
        since: monotonic seconds; when it began to wait, or its request began to arrive.
        arrived_at: see `Load.arrive`.
        held_bytes: received bytes of an incomplete body.
        unsent_bytes: at the last sweep.
        stalled_since: monotonic seconds; its response has not become shorter since then. None: nothing is unsent.
    """

    __slots__ = ("arrived_at", "closing_since", "held_bytes", "host", "peer", "since", "stalled_since", "unsent_bytes")

    def __init__(self, host: str, since: float) -> None:
        self.host = host
        self.peer: Peer | None = None
        self.since = since
        self.arrived_at: float | None = None
        self.held_bytes = 0
        self.unsent_bytes = 0
        self.stalled_since: float | None = None
        self.closing_since: float | None = None


class Connections:
    """The connections of one server.

    Args:
        limit: maximum number of open connections.
        largest_body: bytes; determines the time limit of a request and the memory limit of partly received bodies.
        clock: monotonic seconds; for tests.
    """

    def __init__(self, limit: int, largest_body: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._request_s = max(REQUEST_S, largest_body / SLOWEST_BYTES_PER_S)
        self._max_held_bytes = LARGEST_BODIES_HELD * largest_body
        self._held_bytes = 0
        self._clock = clock
        # Ordered by `since`: a connection is appended whenever it begins to wait.
        self._waiting: dict[Connection, None] = {}
        self._working: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def admit(self, host: str) -> Connection | None:
        """Returns a new connection, evicting another one if needed; None if none can be evicted. Takes 2 µs."""
        if len(self) >= self.limit and not self.evict():
            return None
        connection = Connection(host, self._clock())
        self._waiting[connection] = None
        return connection

    def evict(self) -> bool:
        """Evicts the connection that has waited longest; returns False if every one has a request at work."""
        longest = next(iter(self._waiting), None)
        if longest is None:  # otherwise one whose client does not read its response
            longest = next((one for one in self._working if one.peer and one.peer.unsent_bytes()), None)
        if longest is None:
            return False
        self._evict(longest)
        return True

    def _evict(self, connection: Connection) -> None:
        count_refused("crowded", address=connection.host)
        self.remove(connection)
        if connection.peer is not None:
            connection.peer.abort()

    def wait(self, connection: Connection) -> None:
        """Marks a connection as waiting for a request, or for the rest of one. Takes 0.3 µs."""
        if self._forget(connection):
            connection.since = self._clock()
            self._waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """Marks the request of a connection as completely received. Takes 0.2 µs."""
        if self._forget(connection):
            self._working[connection] = None

    def remove(self, connection: Connection) -> None:
        """Removes a connection. Idempotent."""
        self._forget(connection)

    def _forget(self, connection: Connection) -> bool:
        self._held_bytes -= connection.held_bytes
        connection.held_bytes = 0
        return self._waiting.pop(connection, connection) is None or self._working.pop(connection, connection) is None

    def add_body_bytes(self, connection: Connection, size: int) -> None:
        """Adds received bytes of a body; above the limit, evicts the connection whose body has waited longest."""
        if connection not in self._waiting:
            return
        connection.held_bytes += size
        self._held_bytes += size
        while self._held_bytes > self._max_held_bytes:
            self._evict(next(one for one in self._waiting if one.held_bytes))

    def sweep(self) -> None:
        """Ends connections that take too long; called once a second. Takes 0.2 µs per connection."""
        now = self._clock()
        for connection in (*self._waiting, *self._working):
            peer = connection.peer
            if peer is None:
                continue
            if self._is_stalled(connection, peer, now) or self._is_stuck(connection, peer, now):
                count_refused("stalled", address=connection.host, unsent_bytes=connection.unsent_bytes)
                peer.abort()
            elif connection in self._waiting and now - connection.since >= self._request_s:
                if peer.is_reading():
                    peer.expire()
                else:  # the server is waiting, not the client
                    connection.since = now

    def _is_stalled(self, connection: Connection, peer: Peer, now: float) -> bool:
        before, connection.unsent_bytes = connection.unsent_bytes, peer.unsent_bytes()
        if not connection.unsent_bytes:
            connection.stalled_since = None
            return False
        # A client that reads slowly shrinks it: above 64 kB the server adds nothing.
        if connection.stalled_since is None or connection.unsent_bytes < before:
            connection.stalled_since = now
        return now - connection.stalled_since >= STALL_S

    def _is_stuck(self, connection: Connection, peer: Peer, now: float) -> bool:
        """Returns whether a connection does not end: with TLS, unsent bytes below 64 kB are not seen."""
        if connection.closing_since is None and peer.is_closing():
            connection.closing_since = now
        return connection.closing_since is not None and now - connection.closing_since >= STALL_S
