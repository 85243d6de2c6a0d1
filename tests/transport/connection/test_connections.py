"""Which connection goes when there is no room, and which took too long, by a clock of the test's own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from hearthnet.transport.connection.connections import Connection, Connections
from hearthnet.transport.connection.fd_limit import RESERVED


class Client:
    """A peer that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.unsent = 0
        self.is_held_back = False

    def abort(self):
        """Closes at once."""
        self.told.append("abort")

    def expire(self):
        """Took too long."""
        self.told.append("expire")

    def unsent_bytes(self):
        """What the test has set."""
        return self.unsent

    def is_reading(self):
        """What the test has set."""
        return not self.is_held_back


@pytest.fixture
def now():
    """The time, in a list that a test changes."""
    return [100.0]


@pytest.fixture
def connections(now):
    """Room for four."""
    return Connections(4, 1_000_000, clock=lambda: now[0])


def enter(connections, host="192.0.2.1", is_working=False) -> Connection:
    """A connection that waits, or works on a request."""
    made = connections.admit(host)
    assert made is not None
    made.peer = Client()
    if is_working:
        connections.work(made)
    return made


def aborted(*connections) -> list[bool]:
    """Which were closed."""
    return [connection.peer.told == ["abort"] for connection in connections]


def test_longest_wait_is_evicted(connections, now):
    """Of those that wait the first one goes; one at work stays; where all are at work a newcomer is refused."""
    working = enter(connections, is_working=True)
    first, second, third = (enter(connections) for _ in range(3))
    connections.wait(first)  # its request is answered, and it waits anew
    enter(connections, is_working=True)
    assert aborted(working, first, second, third) == [False, False, True, False]

    enter(connections, is_working=True)
    enter(connections, is_working=True)
    assert aborted(working, first, third) == [False, True, True]
    assert connections.admit("192.0.2.1") is None
    assert len(connections) == 4


def test_first_words_are_not_cut_off(connections):
    """While a stranger holds idle connections, a newcomer is not the one that goes."""
    idle = [enter(connections) for _ in range(3)]
    newcomer = enter(connections)
    enter(connections)
    assert aborted(newcomer, *idle) == [False, True, False, False]


def test_unread_response_gives_way(connections):
    """Where all are at work, one whose client does not read its response goes."""
    working = [enter(connections, is_working=True) for _ in range(4)]
    working[2].peer.unsent = 1

    enter(connections)
    assert aborted(*working) == [False, False, True, False]


def test_bodies_under_way_are_bounded_together(connections):
    """Above eight of the largest the oldest goes; one that is complete, answered or closed is not counted."""
    first, second, third = (enter(connections) for _ in range(3))
    connections.hold(first, 4_000_000)
    connections.hold(second, 4_000_000)
    assert aborted(first, second) == [False, False]
    connections.hold(second, 1)
    assert aborted(first, second) == [True, False]

    connections.hold(first, 5_000_000)  # its last words, which nobody keeps
    connections.work(second)
    connections.hold(third, 8_000_000)
    assert aborted(second, third) == [False, False]
    connections.hold(third, 1)
    assert aborted(third) == [True]


def test_time_limits(connections, now):
    """A request has 10 s to arrive; work has no end; what the server itself holds back does not count."""
    waiting, held_back = enter(connections), enter(connections)
    working = enter(connections, is_working=True)
    held_back.peer.is_held_back = True
    for _ in range(10):
        connections.sweep()
        now[0] += 1
    assert waiting.peer.told == []
    connections.sweep()

    assert [one.peer.told for one in (waiting, held_back, working)] == [["expire"], [], []]


def test_larger_bodies_have_more_time(now):
    """Where 64 MB are allowed, they may arrive at the pace of a poor network."""
    connections = Connections(4, 64_000_000, clock=lambda: now[0])
    waiting = enter(connections)
    for after, told in ((127, []), (128, ["expire"])):
        now[0] = 100.0 + after
        connections.sweep()
        assert waiting.peer.told == told


def test_stalled_response(connections, now):
    """A response that becomes shorter now and then goes on; one of which nothing is taken for 10 s is dropped."""
    slow, stalled = enter(connections, is_working=True), enter(connections, is_working=True)
    slow.peer.unsent, stalled.peer.unsent = 90_000, 1_000
    for second in range(21):
        connections.sweep()
        now[0] += 1
        slow.peer.unsent -= 10 if second % 9 == 0 else 0
        stalled.peer.unsent += 100

    assert slow.peer.told == []
    assert stalled.peer.told[0] == "abort"


def test_closed_connection_stays_so(connections):
    """What was evicted and still speaks is not counted again."""
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
    """The soft limit is raised as far as needed and allowed; what is missing is missing from the connections."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and allowed < hard:
        pytest.skip("this machine allows fewer descriptors")
    done = subprocess.run(
        [sys.executable, "-c", LIMITS, *map(str, (soft, hard, wanted))], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == [str(most), str(raised)]
    assert ("fewer connections" in done.stderr) is (most < wanted)
