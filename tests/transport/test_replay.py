"""A signature is good once: on clocks that jump, with a memory that is full, and right after a start."""

from __future__ import annotations

import tracemalloc
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S as WINDOW_S
from hearthnet.identity.keys import KeyPair
from hearthnet.transport.last_signed import LAST_SIGNED_FILE, LastSigned
from hearthnet.transport.replay import MAX_OF_SENDER, Replays

NOW_S = 1_800_000_000


class Clocks:
    """A wall clock that can be set, and one that only goes on."""

    def __init__(self):
        self.wall_s = float(NOW_S)
        self.mono_s = 0.0

    def go_on(self, by_s):
        """Lets time pass."""
        self.wall_s += by_s
        self.mono_s += by_s

    def memory(self, **limits):
        """A memory that goes by these clocks."""
        return Replays("own", lambda: self.wall_s, lambda: self.mono_s, **limits)


def test_signature_is_good_once():
    """Of one sender, under whatever time it comes again; another sender's and another signature are new."""
    replays = Clocks().memory()

    assert [replays.take("a", "s", NOW_S + 1.9) for _ in range(3)] == ["new", "replayed", "replayed"]
    assert replays.take("a", "t", NOW_S + 1) == "new"
    assert replays.take("b", "s", NOW_S + 1) == "new"
    assert len(replays) == 3


def test_full_share_refuses_and_forgets_nothing_that_is_fresh():
    """Who fills its share is refused alone, until its oldest has expired; what it sent stays known."""
    clocks = Clocks()
    replays = clocks.memory(max_of_sender=10)
    taken = [replays.take("a", str(number), NOW_S + number // 5) for number in range(15)]

    assert taken == ["new"] * 10 + ["full"] * 5
    assert {replays.take("a", str(number), NOW_S + number // 5) for number in range(10)} == {"replayed"}
    assert replays.take("b", "0", NOW_S) == "new"
    clocks.go_on(WINDOW_S + 1)
    assert replays.take("a", "later", clocks.wall_s) == "new"
    assert replays.take("a", "0", NOW_S) == "closed"
    assert replays.take("a", "5", NOW_S + 1) == "replayed"


def test_all_together_are_bounded():
    """Many senders that stay within their shares fill it; then everybody is refused, until what is old goes."""
    clocks = Clocks()
    replays = clocks.memory(max_of_all=20)
    assert {replays.take(f"member {number}", "s", NOW_S) for number in range(20)} == {"new"}
    assert replays.take("member 20", "s", NOW_S) == "full"
    clocks.go_on(WINDOW_S + 2)
    assert replays.take("member 20", "s", clocks.wall_s) == "new"
    assert len(replays) == 1
    assert replays.take("member 3", "s", NOW_S) == "closed"


def test_own_calls_have_half_of_all():
    """The node's own key, which has no rate, is not held to the share of a member."""
    replays = Clocks().memory(max_of_sender=5, max_of_all=20)

    assert [replays.take("own", str(number), NOW_S) for number in range(11)] == ["new"] * 10 + ["full"]


def test_clock_that_is_set_back_opens_nothing():
    """What was seen an hour ago is known when its time comes round again; and new requests of that time are taken."""
    clocks = Clocks()
    replays = clocks.memory(max_of_sender=100)
    clocks.go_on(500)
    hour = [(str(number), int(clocks.wall_s) + 36 * number) for number in range(100)]
    for signature, signed_s in hour:
        assert replays.take("a", signature, signed_s) == "new"
        clocks.go_on(36)
    clocks.wall_s -= 3_600

    assert {replays.take("a", signature, signed_s) for signature, signed_s in hour} == {"replayed"}
    assert replays.take("own", "new", clocks.wall_s) == "new"


def test_what_an_earlier_run_may_have_seen_is_refused():
    """For two minutes after a start whatever was signed before it is; then nothing of it is fresh on any clock."""
    clocks = Clocks()
    replays = clocks.memory()

    assert replays.take("a", "old", NOW_S - 1) == "closed"
    assert replays.take("a", "this very second", NOW_S) == "new"
    clocks.go_on(2 * WINDOW_S)
    assert replays.take("a", "old", NOW_S - 1) == "closed"
    clocks.go_on(1)
    clocks.wall_s -= 7_200  # a node that started with a clock that was ahead is not closed for hours
    assert replays.take("a", "new", clocks.wall_s) == "new"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1, 30, 61, 200]),
            st.sampled_from([0, 0, 0, -3_600, -90, 90, 3_600]),
            st.integers(0, 12),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_nothing_is_taken_twice_whatever_clocks_do(steps):
    """Time passes and clocks are set, in any order: a request that is found fresh is taken once at most."""
    clocks = Clocks()
    replays = clocks.memory(max_of_sender=5, max_of_all=8)
    recorded, taken = [], set()
    for passed_s, set_by_s, which, is_replay in steps:
        clocks.go_on(passed_s)
        clocks.wall_s += set_by_s
        if is_replay and recorded:
            request = recorded[which % len(recorded)]
        else:
            request = ("ab"[which % 2], str(len(recorded)), clocks.wall_s + 10 * which - 60)
            recorded.append(request)
        is_fresh = abs(clocks.wall_s - request[2]) <= WINDOW_S
        if is_fresh and replays.take(*request) == "new":
            assert request not in taken
            taken.add(request)
        assert len(replays) <= 8


def test_full_share_takes_as_much_memory_as_is_said():
    """A member that does its worst costs less than 2 MB."""
    names = [str(number) for number in range(MAX_OF_SENDER)]
    tracemalloc.start()
    try:
        replays = Clocks().memory()
        before, _ = tracemalloc.get_traced_memory()
        for number, name in enumerate(names):
            assert replays.take("a", name, NOW_S + number % 120) == "new"
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 2_000_000
    assert replays.take("a", "one more", NOW_S) == "full"


AHEAD, OTHER = (KeyPair.generate().node_id for _ in range(2))


@pytest.mark.parametrize(("ahead_s", "away_s", "set_back_s"), [(0, 0, 0), (30, 5, 0), (59, 20, 0), (0, 20, 50)])
def test_restart_opens_nothing(tmp_path, ahead_s, away_s, set_back_s):
    """What the last run has answered the next one refuses, with clocks ahead or set back; what follows is new."""
    clocks = Clocks()
    signed_s = NOW_S + 10 + ahead_s
    with closing(LastSigned(tmp_path / LAST_SIGNED_FILE)) as last:
        clocks.go_on(10)
        assert clocks.memory(last=last).take(AHEAD, "s", signed_s) == "new"
    clocks.go_on(away_s)
    clocks.wall_s -= set_back_s
    with closing(LastSigned(tmp_path / LAST_SIGNED_FILE)) as last:
        again = clocks.memory(last=last)
        assert again.take(AHEAD, "s", signed_s) == "closed"
        assert again.take(AHEAD, "t", signed_s + 1) == "new"
        assert again.take(OTHER, "u", clocks.wall_s) == "new"
    with closing(LastSigned(tmp_path / LAST_SIGNED_FILE)) as last:
        assert [last.was_before(AHEAD, signed_s + more) for more in (-121, -1, 1, 2)] == [False, True, True, False]
        assert last.was_before(OTHER, int(clocks.wall_s))
    assert (tmp_path / LAST_SIGNED_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["noise", "cut", "folder"])
def test_file_that_cannot_be_used_stops_nothing(tmp_path, logged, kind):
    """Of noise, or of a file that was cut, what is whole counts; without any file requests are taken all the same."""
    path = tmp_path / LAST_SIGNED_FILE
    if kind == "folder":
        path.mkdir()
    else:
        with closing(LastSigned(path)) as last:
            last.note(AHEAD, NOW_S)
            last.note(OTHER, NOW_S)
        whole = path.read_bytes()
        path.write_bytes(whole[:100] if kind == "cut" else whole[:64] + bytes(range(256)))
    with closing(LastSigned(path)) as last:
        replays = Clocks().memory(last=last)
        assert [replays.take(OTHER, "s", NOW_S) for _ in range(2)] == ["new", "replayed"]
        assert last.was_before(AHEAD, NOW_S) == (kind != "folder")

    assert bool(logged) == (kind == "folder")
    if kind != "folder":
        with closing(LastSigned(path)) as last:
            assert last.was_before(AHEAD, NOW_S)
            assert last.was_before(OTHER, NOW_S)
