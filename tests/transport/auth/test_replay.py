"""Replay protection: a signature is accepted once, with changing clocks, full memory, and restarts."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from hearthnet.constants import PROTOCOL_TIMESTAMP_WINDOW_S as WINDOW_S
from hearthnet.transport.auth.replay import MAX_OF_SENDER, ReplayJournal, Replays

NOW_S = 1_800_000_000


class Clock:
    """A wall clock that can be set."""

    def __init__(self):
        self.now_s = float(NOW_S)

    def memory(self, **more):
        """Returns replay protection that uses this clock."""
        return Replays("own", lambda: self.now_s, **more)


def test_signature_is_good_once():
    """A signature is refused under any timestamp; another sender's and another signature are new."""
    replays = Clock().memory()

    assert [replays.take("a", "s", NOW_S + 1.9) for _ in range(3)] == ["new", "replayed", "replayed"]
    assert replays.take("a", "t", NOW_S + 1) == "new"
    assert replays.take("b", "s", NOW_S + 1) == "new"
    assert len(replays) == 3


def test_full_share_refuses_and_forgets_nothing_that_is_fresh():
    """A sender that fills its share is refused alone, until its oldest expires; its signatures stay known."""
    clock = Clock()
    replays = clock.memory(max_of_sender=10)
    taken = [replays.take("a", str(number), NOW_S + number // 5) for number in range(15)]

    assert taken == ["new"] * 10 + ["full"] * 5
    assert {replays.take("a", str(number), NOW_S + number // 5) for number in range(10)} == {"replayed"}
    assert replays.take("b", "0", NOW_S) == "new"
    clock.now_s += WINDOW_S + 1
    assert replays.take("a", "later", clock.now_s) == "new"
    assert replays.take("a", "0", NOW_S) == "closed"
    assert replays.take("a", "5", NOW_S + 1) == "replayed"


def test_delayed_request_is_not_accepted_into_a_closed_second():
    """A request that expired while its body arrived is closed by making space in its own second."""
    clock = Clock()
    replays = clock.memory(max_of_sender=1)
    assert replays.take("a", "0", NOW_S) == "new"
    clock.now_s += WINDOW_S + 2
    assert replays.take("a", "slow", NOW_S) == "closed"
    assert replays.take("a", "0", NOW_S) == "closed"


def test_all_together_are_bounded():
    """Many senders within their shares can fill the total; then all are refused, until old signatures expire."""
    clock = Clock()
    replays = clock.memory(max_of_all=20)
    assert {replays.take(f"member {number}", "s", NOW_S) for number in range(20)} == {"new"}
    assert replays.take("member 20", "s", NOW_S) == "full"
    clock.now_s += WINDOW_S + 2
    assert replays.take("member 20", "s", clock.now_s) == "new"
    assert len(replays) == 1
    assert replays.take("member 3", "s", NOW_S) == "closed"


def test_own_calls_have_half_of_all():
    """The node's own key, which has no rate limit, is not held to the share of a member."""
    replays = Clock().memory(max_of_sender=5, max_of_all=20)

    assert [replays.take("own", str(number), NOW_S) for number in range(11)] == ["new"] * 10 + ["full"]


def test_clock_that_is_set_back_opens_nothing():
    """After the clock is set back an hour, old requests are known and new ones of that time accepted."""
    clock = Clock()
    replays = clock.memory(max_of_sender=100)
    clock.now_s += 500
    hour = [(str(number), int(clock.now_s) + 36 * number) for number in range(100)]
    for signature, signed_s in hour:
        assert replays.take("a", signature, signed_s) == "new"
        clock.now_s += 36
    clock.now_s -= 3_600

    assert {replays.take("a", signature, signed_s) for signature, signed_s in hour} == {"replayed"}
    assert replays.take("own", "new", clock.now_s) == "new"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1, 30, 61, 200]),
            st.sampled_from([0, 0, 0, -3_600, -90, 90, 3_600]),
            st.integers(0, 12),
            st.sampled_from(["new", "new", "again", "again", "restart"]),
        ),
        max_size=60,
    )
)
def test_nothing_is_accepted_twice_whatever_happens(steps):
    """Over any sequence of time, clock changes and restarts a fresh request is accepted once at most."""
    with TemporaryDirectory() as folder:
        check_that_nothing_is_taken_twice(Path(folder) / "replays.bin", steps)


def check_that_nothing_is_taken_twice(path, steps):
    """Runs the steps; the memory is small, so that it is usually full."""
    clock = Clock()

    journal = ReplayJournal(path)
    replays = clock.memory(max_of_sender=5, max_of_all=8, journal=journal)
    recorded, taken = [], set()
    for passed_s, set_by_s, which, step in steps:
        clock.now_s += passed_s + set_by_s
        if step == "restart":
            journal.close()
            journal = ReplayJournal(path)
            replays = clock.memory(max_of_sender=5, max_of_all=8, journal=journal)
        elif step == "again" and recorded:
            request = recorded[which % len(recorded)]
        else:
            request = ("ab"[which % 2], str(len(recorded)), clock.now_s + 10 * which - 60)
            recorded.append(request)
        is_fresh = bool(recorded) and abs(clock.now_s - request[2]) <= WINDOW_S
        if is_fresh and replays.take(*request) == "new":
            assert request not in taken
            taken.add(request)
            assert len(replays) <= 8
    journal.close()


def test_full_share_takes_as_much_memory_as_is_said():
    """A member that does its worst costs less than 2 MB."""
    names = [str(number) for number in range(MAX_OF_SENDER)]
    tracemalloc.start()
    try:
        replays = Clock().memory()
        before, _ = tracemalloc.get_traced_memory()
        for number, name in enumerate(names):
            assert replays.take("a", name, NOW_S + number % 120) == "new"
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 2_000_000
    assert replays.take("a", "one more", NOW_S) == "full"
