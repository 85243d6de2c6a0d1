"""Who is connected, what each connection waits for, and which one goes when there is no room for another.

A stranger who holds connections open must not keep out those who have something to say. So a full house is no reason
to refuse: the connection that has waited longest without a whole request goes, from the address that has most of them.
Where every connection has a request under way, the newcomer is told to come back.

A look at all of them, once a second, ends those that take too long: no timer for a connection, nothing for a piece of
data. Changes of state are two entries in dictionaries, which the order of insertion keeps sorted by how long they wait.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from hearthnet.transport.refused import note_refused

__all__ = ["Connection", "Connections", "Full", "Peer", "State", "party_of"]

State = Literal["half_open", "idle", "busy"]
Full = Literal["connections", "address_connections"]

REQUEST_S: Final = 10.0  # from its first byte to its last; the same for a new connection that says nothing
# What a large body may take beyond that, where `max_body_bytes` allows one: 4 Mbit/s is a poor wireless network.
SLOWEST_BYTES_A_SECOND: Final = 500_000
# A newcomer gets this to begin; else the idle connections of one stranger would have everybody else's first words cut.
GRACE_S: Final = 1.0
KEEP_ALIVE_S: Final = 5.0  # as uvicorn has it: clients that keep connections expect 5 s, and find a closed one cheap
# Bodies that are under way, all together: whoever claims a member's name has 1 MB taken in, and 256 of them at once had
# the node grow by 240 MB. A home has a few large calls at a time, each of them whole within a second.
BODIES_HELD: Final = 8
STALL_S: Final = 10.0  # an answer of which the client takes nothing for so long is given up
_LOOPBACK: Final = "loopback"


class Peer(Protocol):
    """What a connection does when it is told to."""

    def drop(self) -> None:
        """Ends at once, whatever waits to be sent."""

    def expire(self) -> None:
        """Answers that the request took too long, if one has begun; then ends."""

    def leave(self) -> None:
        """Ends after what waits was sent."""

    def unsent_bytes(self) -> int:
        """Returns how much of an answer waits for the client."""

    def holds_back(self) -> bool:
        """Tells whether it is us who do not read on."""


@dataclass(slots=True, eq=False)
class Connection:
    """A connection, from the moment it is accepted.

    Attributes:
        party: whose it is; see `party_of`.
        since: when its state began, monotonic seconds.
        state: `half_open` until there is a whole request, `busy` until it is answered, then `idle`.
        peer: what it is told.
        unsent_bytes: at the last look.
        stalled_since: the answer has not become shorter since then; None: nothing waits.
        held_bytes: of a body that is not whole.
    """

    party: str
    since: float
    state: State = "half_open"
    peer: Peer | None = None
    unsent_bytes: int = 0
    stalled_since: float | None = None
    held_bytes: int = 0

    def has_unread_answer(self) -> bool:
        """Tells whether its client could read."""
        return self.peer is not None and self.peer.unsent_bytes() > 0


class _Party:
    """The connections of one address by state, those that wait longest first."""

    def __init__(self) -> None:
        self.states: dict[State, dict[Connection, None]] = {"half_open": {}, "idle": {}, "busy": {}}
        self.count = 0

    def best_to_drop(self, now: float) -> Connection | None:
        """Returns the one that is missed least; None where each has a request under way."""
        half_open = next(iter(self.states["half_open"]), None)
        if half_open is not None and now - half_open.since >= GRACE_S:
            return half_open
        idle = next(iter(self.states["idle"]), None)
        return idle or half_open or next(filter(Connection.has_unread_answer, self.states["busy"]), None)

    def held_bytes(self) -> int:
        """Returns how much of bodies that are not whole it has."""
        return sum(connection.held_bytes for connection in self.states["half_open"])

    def longest_holding(self) -> Connection | None:
        """Returns the one whose body is under way for the longest time."""
        return next((connection for connection in self.states["half_open"] if connection.held_bytes), None)


def party_of(host: str) -> str:
    """Returns whose connection it is: the address, its network of 64 bits (any home has one), or this machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            # Of a link-local network everybody nearby is a part.
            whole = address.is_loopback or address.is_link_local
            return _LOOPBACK if address.is_loopback else str(address if whole else int(address) >> 64)
        address = address.ipv4_mapped
    return _LOOPBACK if address.is_loopback else str(address)


class Connections:
    """All connections of a server.

    Args:
        most: in all.
        most_of_a_party: from one address; this machine's own are not bounded by it.
        largest_body: bytes; how long a request may take depends on it, and how much all that are under way may hold.
        clock: monotonic seconds; tests hand in their own.
    """

    def __init__(
        self,
        most: int,
        most_of_a_party: int,
        largest_body: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self._most_of_a_party = most_of_a_party
        self._request_s = max(REQUEST_S, largest_body / SLOWEST_BYTES_A_SECOND)
        self._most_held_bytes = BODIES_HELD * largest_body
        self._held_bytes = 0
        self._clock = clock
        self._parties: dict[str, _Party] = {}
        self._count = 0

    def __len__(self) -> int:
        """Returns how many there are."""
        return self._count

    def __iter__(self) -> Iterator[Connection]:
        """Gives them all."""
        for party in self._parties.values():
            for kept in party.states.values():
                yield from kept

    def admit(self, host: str) -> Connection | Full:
        """Returns a new connection, or what there are too many of. Another one may have been dropped for it.

        Takes 4 µs.
        """
        name = party_of(host)
        party = self._parties.get(name)
        if party is not None and name != _LOOPBACK and party.count >= self._most_of_a_party:
            if not self._drop(party.best_to_drop(self._clock())):
                return "address_connections"
        elif self._count >= self.most and not self.make_room():
            return "connections"
        connection = Connection(name, self._clock())
        party = self._parties.setdefault(name, _Party())
        party.states["half_open"][connection] = None
        party.count += 1
        self._count += 1
        return connection

    def make_room(self) -> bool:
        """Drops the connection that is missed least; tells whether there was one."""
        # Of addresses there are few but under an attack from thousands; then it is the connections that are many.
        now = self._clock()
        for party in sorted(self._parties.values(), key=lambda party: party.count, reverse=True):
            if self._drop(party.best_to_drop(now)):
                return True
        return False

    def _drop(self, connection: Connection | None) -> bool:
        if connection is None:
            return False
        note_refused("crowded", state=connection.state, address=connection.party)
        self.remove(connection)
        if connection.peer is not None:
            connection.peer.drop()
        return True

    def hold(self, connection: Connection, size: int) -> None:
        """Notes more of a body that is not whole; where all are too much, the party that has most loses some."""
        party = self._parties.get(connection.party)
        if party is None or connection not in party.states["half_open"]:
            return  # dropped before
        connection.held_bytes += size
        self._held_bytes += size
        while self._held_bytes > self._most_held_bytes:
            if not self._drop(max(self._parties.values(), key=_Party.held_bytes).longest_holding()):
                return

    def release(self, connection: Connection) -> None:
        """Notes that the body of a connection is whole, or not wanted any more. Idempotent."""
        self._held_bytes -= connection.held_bytes
        connection.held_bytes = 0

    def enter(self, connection: Connection, state: State) -> None:
        """Notes that a connection is in this state from now on. Takes 0.25 µs, twice for each request."""
        party = self._parties.get(connection.party)
        if party is None or connection not in party.states[connection.state]:
            return  # dropped before
        self.release(connection)
        del party.states[connection.state][connection]
        connection.state = state
        connection.since = self._clock()
        party.states[state][connection] = None

    def remove(self, connection: Connection) -> None:
        """Forgets a connection. Idempotent."""
        party = self._parties.get(connection.party)
        if party is None or connection not in party.states[connection.state]:
            return
        self.release(connection)
        del party.states[connection.state][connection]
        self._count -= 1
        party.count -= 1
        if not party.count:
            del self._parties[connection.party]

    def look(self) -> None:
        """Ends what takes too long; called once a second. Takes 0.2 µs for a connection."""
        now = self._clock()
        for connection in list(self):
            if connection.peer is None:
                continue
            if self._is_stalled(connection, connection.peer, now):
                note_refused("stalled", address=connection.party, unsent_bytes=connection.unsent_bytes)
                connection.peer.drop()
            elif connection.state == "half_open":
                self._look_at_half_open(connection, connection.peer, now)
            elif connection.state == "idle" and now - connection.since >= KEEP_ALIVE_S:
                connection.peer.leave()

    def _look_at_half_open(self, connection: Connection, peer: Peer, now: float) -> None:
        if peer.holds_back():
            connection.since = now
        elif now - connection.since >= self._request_s:
            peer.expire()

    def _is_stalled(self, connection: Connection, peer: Peer, now: float) -> bool:
        before, connection.unsent_bytes = connection.unsent_bytes, peer.unsent_bytes()
        if not connection.unsent_bytes:
            connection.stalled_since = None
            return False
        # A client that takes its answer slowly makes it shorter: above 64 kB nothing is added to it.
        if connection.stalled_since is None or connection.unsent_bytes < before:
            connection.stalled_since = now
        return now - connection.stalled_since >= STALL_S
