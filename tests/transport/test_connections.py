"""Who goes when there is no room, who took too long, and what one address may have: by a clock of the test's own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from hearthnet.transport.connections import Connection, Connections, party_of
from hearthnet.transport.descriptors import RESERVED


class Seat:
    """A peer that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.unsent = 0
        self.is_held = False

    def drop(self):
        """Ends at once."""
        self.told.append("drop")

    def expire(self):
        """Took too long."""
        self.told.append("expire")

    def leave(self):
        """Was idle for long enough."""
        self.told.append("leave")

    def unsent_bytes(self):
        """What the test has set."""
        return self.unsent

    def holds_back(self):
        """What the test has set."""
        return self.is_held


@pytest.fixture
def now():
    """The time, in a list that a test changes."""
    return [100.0]


@pytest.fixture
def house(now):
    """Room for six, three of them from one address."""
    return Connections(6, 3, 1_000_000, clock=lambda: now[0])


def enter(house, host, state="half_open") -> Connection:
    """A connection in some state."""
    made = house.admit(host)
    assert isinstance(made, Connection)
    made.peer = Seat()
    if state != "half_open":
        house.enter(made, state)
    return made


def dropped(*connections) -> list[bool]:
    """Which were dropped."""
    return [connection.peer.told == ["drop"] for connection in connections]


def test_longest_wait_goes_first(house, now):
    """Half-open before idle, the oldest first; one that is at work stays."""
    idle = enter(house, "127.0.0.1", "idle")
    busy = enter(house, "127.0.0.1", "busy")
    open_ones = []
    for _ in range(4):
        now[0] += 1
        open_ones.append(enter(house, "127.0.0.1"))
    now[0] += 1
    for _ in range(4):
        enter(house, "127.0.0.1", "busy")

    assert dropped(*open_ones, idle, busy) == [True, True, True, True, False, False]
    enter(house, "127.0.0.1", "busy")
    assert dropped(idle, busy) == [True, False]
    assert house.admit("127.0.0.1") == "connections"
    assert len(house) == 6


def test_newcomer_may_begin(house, now):
    """One that has just come is no reason to go before those that are idle; a second later it is."""
    idle = [enter(house, "127.0.0.1", "idle") for _ in range(5)]
    newcomer = enter(house, "127.0.0.1")
    enter(house, "127.0.0.1", "idle")
    assert dropped(newcomer, *idle) == [False, True, False, False, False, False]

    now[0] += 1
    enter(house, "127.0.0.1")
    assert dropped(newcomer, *idle) == [True, True, False, False, False, False]


def test_unread_answer_gives_way(house):
    """Where all are busy, one whose client does not read its answer goes."""
    busy = [enter(house, "127.0.0.1", "busy") for _ in range(6)]
    busy[3].peer.unsent = 1

    enter(house, "127.0.0.1")
    assert dropped(*busy) == [False, False, False, True, False, False]


def test_address_with_most_loses(house):
    """A newcomer displaces one of the address that has most, however long others wait."""
    first = enter(house, "192.0.2.1")
    many = [enter(house, "192.0.2.2") for _ in range(3)]
    others = [enter(house, "192.0.2.3"), enter(house, "192.0.2.4")]

    newcomer = enter(house, "192.0.2.5")
    assert dropped(first, *many, *others, newcomer) == [False, True, False, False, False, False, False]


def test_bodies_under_way_are_bounded_together(house):
    """Where all hold too much, the oldest of the address that holds most goes; what is whole or dropped is not held."""
    mine = enter(house, "192.0.2.1")
    others = [enter(house, "192.0.2.2") for _ in range(3)]
    house.hold(mine, 900_000)
    for _ in range(30):  # 8 MB are held by all
        house.hold(others[1], 100_000)
        house.hold(others[2], 100_000)
    house.hold(others[0], 1_000_000)
    assert dropped(mine, *others) == [False] * 4
    house.hold(others[0], 100_001)
    assert dropped(mine, *others) == [False, True, False, False]

    house.hold(others[0], 5_000_000)  # its last words, which nobody keeps
    house.enter(others[1], "busy")
    house.remove(others[2])
    house.hold(mine, 7_100_000)
    assert dropped(mine, *others[1:]) == [False] * 3
    house.release(mine)
    house.release(mine)
    house.hold(mine, 8_000_000)
    assert dropped(mine) == [False]
    house.hold(mine, 1)
    assert dropped(mine) == [True]


def test_bound_of_an_address(house):
    """A fourth from one address displaces one of its own, or is told no; this machine has no such bound."""
    enter(house, "192.0.2.9")
    mine = [enter(house, "192.0.2.1", state) for state in ("busy", "idle", "busy")]

    fourth = enter(house, "::ffff:192.0.2.1", "busy")
    assert dropped(*mine, fourth) == [False, True, False, False]
    assert house.admit("192.0.2.1") == "address_connections"
    house.remove(fourth)
    house.remove(fourth)
    assert isinstance(house.admit("192.0.2.1"), Connection)
    assert len(house) == 4


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("127.0.0.1", "::1", True),
        ("127.0.0.1", "::ffff:127.0.0.9", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_parties(one, other, is_same):
    """A home has 2^64 addresses of IPv6, and is one party; all of this machine's are one."""
    assert (party_of(one) == party_of(other)) is is_same


def test_time_limits(house, now):
    """Half-open 10 s, idle 5 s, at work without end; what we ourselves hold back does not count."""
    half, held = enter(house, "127.0.0.1"), enter(house, "127.0.0.1")
    idle, busy = enter(house, "127.0.0.1", "idle"), enter(house, "127.0.0.1", "busy")
    held.peer.is_held = True
    for _ in range(10):
        house.look()
        now[0] += 1
    assert (half.peer.told, idle.peer.told[:1]) == ([], ["leave"])
    house.look()

    assert [one.peer.told for one in (half, held, busy)] == [["expire"], [], []]


def test_larger_bodies_have_more_time(now):
    """Where 64 MB are allowed, they may come in at the pace of a poor network."""
    house = Connections(6, 3, 64_000_000, clock=lambda: now[0])
    half = enter(house, "192.0.2.1")
    for after, told in ((127, []), (128, ["expire"])):
        now[0] = 100.0 + after
        house.look()
        assert half.peer.told == told


def test_stalled_answer(house, now):
    """An answer that becomes shorter now and then goes on; one of which nothing is taken for 10 s is dropped."""
    slow, stalled = enter(house, "192.0.2.1", "busy"), enter(house, "192.0.2.2", "busy")
    slow.peer.unsent, stalled.peer.unsent = 90_000, 1_000
    for second in range(21):
        house.look()
        now[0] += 1
        slow.peer.unsent -= 10 if second % 9 == 0 else 0
        stalled.peer.unsent += 100

    assert slow.peer.told == []
    assert stalled.peer.told[0] == "drop"


def test_forgotten_connection_stays_so(house):
    """What was dropped and still speaks is not counted again."""
    gone = enter(house, "192.0.2.1")
    house.remove(gone)
    house.enter(gone, "busy")

    assert len(house) == 0
    assert list(house) == []


LIMITS = """
import resource, sys
from hearthnet.transport.descriptors import connections_for
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
