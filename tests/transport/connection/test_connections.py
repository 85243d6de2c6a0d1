"""The table of connections: eviction when it is full, and time limits, with a fake clock."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from hearthnet.transport.connection.connections import Connection, Connections
from hearthnet.transport.connection.fd_limit import RESERVED


class Client:
    """A peer that records the operations on it."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.unsent = 0
        self.is_held_back = False
        self.has_closed = False

    def abort(self):
        """Records the abort."""
        self.orders.append("abort")

    def expire(self):
        """Records the timeout."""
        self.orders.append("expire")

    def unsent_bytes(self):
        """Returns the value set by the test."""
        return self.unsent

    def is_reading(self):
        """Returns the value set by the test."""
        return not self.is_held_back

    def is_closing(self):
        """Returns the value set by the test."""
        return self.has_closed


@pytest.fixture
def now():
    """The current time, in a list that a test changes."""
    return [100.0]


@pytest.fixture
def connections(now):
    """A table for four connections."""
    return Connections(4, 1_000_000, clock=lambda: now[0])


def enter(connections, host="192.0.2.1", is_working=False) -> Connection:
    """Adds a connection that waits, or has a request at work."""
    made = connections.admit(host)
    assert made is not None
    made.peer = Client()
    if is_working:
        connections.work(made)
    return made


def aborted(*connections) -> list[bool]:
    """Returns the aborted connections."""
    return [connection.peer.orders == ["abort"] for connection in connections]


def test_longest_wait_is_evicted(connections, now):
    """The longest waiting connection is evicted, never one at work; if all are at work, a new one is refused."""
    working = enter(connections, is_working=True)
    first, second, third = (enter(connections) for _ in range(3))
    connections.wait(first)  # it got its response, and waits anew
    enter(connections, is_working=True)
    assert aborted(working, first, second, third) == [False, False, True, False]

    enter(connections, is_working=True)
    enter(connections, is_working=True)
    assert aborted(working, first, third) == [False, True, True]
    assert connections.admit("192.0.2.1") is None
    assert len(connections) == 4


def test_first_words_are_not_cut_off(connections):
    """While an attacker holds idle connections, a new connection is not the one evicted."""
    idle = [enter(connections) for _ in range(3)]
    newcomer = enter(connections)
    enter(connections)
    assert aborted(newcomer, *idle) == [False, True, False, False]


def test_unread_response_gives_way(connections):
    """If all are at work, one whose client does not read its response is evicted."""
    working = [enter(connections, is_working=True) for _ in range(4)]
    working[2].peer.unsent = 1

    enter(connections)
    assert aborted(*working) == [False, False, True, False]


def test_bodies_under_way_are_bounded_together(connections):
    """Above eight times the largest body the oldest is evicted; complete, served and closed ones do not count."""
    first, second, third = (enter(connections) for _ in range(3))
    connections.add_body_bytes(first, 4_000_000)
    connections.add_body_bytes(second, 4_000_000)
    assert aborted(first, second) == [False, False]
    connections.add_body_bytes(second, 1)
    assert aborted(first, second) == [True, False]

    connections.add_body_bytes(first, 5_000_000)  # data after its eviction, which is ignored
    connections.work(second)
    connections.add_body_bytes(third, 8_000_000)
    assert aborted(second, third) == [False, False]
    connections.add_body_bytes(third, 1)
    assert aborted(third) == [True]


def test_time_limits(connections, now):
    """A request has 10 s to arrive; work has no limit; time in which the server pauses reading does not count."""
    waiting, held_back = enter(connections), enter(connections)
    working = enter(connections, is_working=True)
    held_back.peer.is_held_back = True
    for _ in range(10):
        connections.sweep()
        now[0] += 1
    assert waiting.peer.orders == []
    connections.sweep()

    assert [one.peer.orders for one in (waiting, held_back, working)] == [["expire"], [], []]


def test_larger_bodies_have_more_time(now):
    """If 64 MB are allowed, they may arrive at the speed of a poor network."""
    connections = Connections(4, 64_000_000, clock=lambda: now[0])
    waiting = enter(connections)
    for after, orders in ((127, []), (128, ["expire"])):
        now[0] = 100.0 + after
        connections.sweep()
        assert waiting.peer.orders == orders


def test_connection_that_does_not_end_is_aborted(connections, now):
    """Closing takes 10 s at most, also where nothing unsent is seen."""
    closing = enter(connections)
    closing.peer.has_closed = True
    for _ in range(9):
        connections.sweep()
        now[0] += 1
    assert closing.peer.orders == []
    for _ in range(2):
        connections.sweep()
        now[0] += 1
    assert closing.peer.orders[0] == "abort"


def test_stalled_response(connections, now):
    """A response that keeps shrinking continues; one of which nothing is read for 10 s is aborted."""
    slow, stalled = enter(connections, is_working=True), enter(connections, is_working=True)
    slow.peer.unsent, stalled.peer.unsent = 90_000, 1_000
    for second in range(21):
        connections.sweep()
        now[0] += 1
        slow.peer.unsent -= 10 if second % 9 == 0 else 0
        stalled.peer.unsent += 100

    assert slow.peer.orders == []
    assert stalled.peer.orders[0] == "abort"


def test_closed_connection_stays_so(connections):
    """An evicted connection that still sends is not counted again."""
    gone = enter(connections)
    connections.remove(gone)
    connections.remove(gone)
    connections.work(gone)
    connections.wait(gone)

    assert len(connections) == 0


LIMITS = """
import resource, sys
from hearthnet.transport.connection.fd_limit import connections_for
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(connections_for(wanted), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "most", "raised"),
    [(200, 1_000, 256, 256, 256 + RESERVED), (200, 256, 256, 256 - RESERVED, 256), (500, 600, 256, 256, 500)],
)
def test_descriptors(soft, hard, wanted, most, raised):
    """The soft limit is raised as far as needed and allowed; otherwise the number of connections is lowered."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and allowed < hard:
        pytest.skip("this machine allows fewer descriptors")
    done = subprocess.run(
        [sys.executable, "-c", LIMITS, *map(str, (soft, hard, wanted))], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == [str(most), str(raised)]
    assert ("fewer connections" in done.stderr) is (most < wanted)
