"""Rate limits, against a plain model of token buckets and through the bus."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import Clock

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.bus.ratelimit import NS, Bucket, RateLimitedError, RateLimiter
from hearthnet.constants import (
    RATE_LIMIT_HARD_RPS_PER_CAP,
    RATE_LIMIT_HARD_RPS_TOTAL,
    RATE_LIMIT_SOFT_RPS_PER_CAP,
    RATE_LIMIT_SOFT_RPS_TOTAL,
)
from hearthnet.observability import metrics, trace

ME, PEER, OTHER = "ed25519:me", "ed25519:peer", "ed25519:other"
CAPABILITY = "experimental.thing"


@pytest.fixture
def clock():
    """A stopped clock."""
    return Clock(7 * NS)


@pytest.fixture
def limiter(clock):
    """A limiter of this node."""
    return RateLimiter(ME, clock)


def outcome(limiter, caller=PEER, capability=CAPABILITY) -> str:
    """Returns `ok`, or the reason why a call is refused."""
    try:
        limiter.check(caller, capability)
    except RateLimitedError as error:
        return error.reason
    return "ok"


class ModelBucket:
    """A textbook token bucket in exact integers: tokens times nanoseconds."""

    def __init__(self, per_second: int, now: int) -> None:
        self.per_second, self.level, self.at = per_second, per_second * NS, now

    def has_token(self, now: int) -> bool:
        """Refills the bucket; returns True if a token is available."""
        self.level = min(self.per_second * NS, self.level + (now - self.at) * self.per_second)
        self.at = now
        return self.level >= NS

    def take(self) -> None:
        """Takes a token."""
        self.level -= NS


class Model:
    """A straightforward reference implementation of the limits."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._buckets: dict[tuple, ModelBucket] = {}

    def bucket(self, per_second: int, *key: str) -> ModelBucket:
        """Returns the bucket of that rate and name."""
        return self._buckets.setdefault((per_second, *key), ModelBucket(per_second, self._now))

    def check(self, peer: str, capability: str, now: int) -> str:
        """Returns the outcome of a call."""
        for reason, bucket in (
            ("hard_peer", self.bucket(RATE_LIMIT_HARD_RPS_TOTAL, peer)),
            ("hard_capability", self.bucket(RATE_LIMIT_HARD_RPS_PER_CAP, peer, capability)),
        ):
            if not bucket.has_token(now):
                return reason
            bucket.take()
        soft = self.bucket(RATE_LIMIT_SOFT_RPS_TOTAL, peer), self.bucket(RATE_LIMIT_SOFT_RPS_PER_CAP, peer, capability)
        if not all(bucket.has_token(now) for bucket in soft):
            return "soft"
        for bucket in soft:
            bucket.take()
        return "ok"


# Bursts of calls, each after a pause in milliseconds: short ones, and some that let every bucket run full.
BURSTS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 7, 50, 100, 333, 999, 1_000, 5_000]),
        st.sampled_from([PEER, OTHER]),
        st.sampled_from([f"experimental.{name}" for name in "abcdefghijkl"]),
        st.integers(1, 130),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(BURSTS)
def test_limiter_is_its_model(bursts):
    """For any sequence of calls, outcomes equal those of plain token buckets, and memory stays bounded."""
    clock = Clock(7 * NS)
    limiter = RateLimiter(ME, clock)
    model = Model(clock.now)
    for pause_ms, peer, capability, count in bursts:
        clock.now += pause_ms * 1_000_000
        for _ in range(count):
            found = outcome(limiter, peer, capability)
            assert (found if found == "ok" or found.startswith("hard") else "soft") == model.check(
                peer, capability, clock.now
            )


@settings(deadline=None)
@given(st.sampled_from([10, 100, 1_000]), st.lists(st.integers(0, 3 * NS), max_size=60))
def test_wait_is_true(per_second, pauses):
    """A token is available after exactly the returned wait, not a nanosecond before."""
    bucket, now = Bucket(per_second), NS
    for pause in pauses:
        now += pause % (3 * NS // per_second)
        wait = bucket.wait_ns(now)
        if wait:
            assert bucket.wait_ns(now + wait - 1) == 1
            now += wait
        assert bucket.wait_ns(now) == 0
        bucket.take(now)
    assert bucket.is_full(now + NS)


def test_one_second_of_flood(limiter, clock):
    """A silent caller may send a second's worth at once; further calls are refused, then dropped."""
    found = [outcome(limiter) for _ in range(150)]

    assert found == ["ok"] * 10 + ["soft_capability"] * 90 + ["hard_capability"] * 50
    with pytest.raises(RateLimitedError) as caught:
        limiter.check(PEER, CAPABILITY)
    assert (caught.value.status, caught.value.code, caught.value.is_dropped) == (429, "rate_limited", True)
    assert caught.value.retry_after_ms == 10
    clock.now += 100 * 1_000_000
    assert outcome(limiter) == "ok"
    with pytest.raises(RateLimitedError) as caught:
        limiter.check(PEER, CAPABILITY)
    assert (caught.value.retry_after_ms, caught.value.is_dropped) == (100, False)


def test_peer_in_all(limiter):
    """Calls spread over many capabilities count against the caller's total; another caller has its own."""
    found = [outcome(limiter, capability=f"experimental.c{number % 200}") for number in range(1_100)]

    assert found.count("ok") == RATE_LIMIT_SOFT_RPS_TOTAL
    assert found[100:1_000] == ["soft_peer"] * 900
    assert found[1_000:] == ["hard_peer"] * 100
    assert outcome(limiter, OTHER) == "ok"


def test_own_key_is_exempt(limiter):
    """The node itself is never limited, and uses no memory."""
    assert {outcome(limiter, ME) for _ in range(2_000)} == {"ok"}
    assert len(limiter) == 0


def test_claim_counts_nothing(limiter):
    """An unverified claim uses up no tokens and no memory."""
    for _ in range(5_000):
        limiter.check_claimed(PEER, CAPABILITY)
    assert len(limiter) == 0
    assert [outcome(limiter) for _ in range(10)] == ["ok"] * 10


def test_claim_of_a_flooder_is_refused(limiter, clock):
    """A caller over its hard limit is refused by its claimed id, until tokens are available again."""
    for _ in range(RATE_LIMIT_HARD_RPS_PER_CAP):
        outcome(limiter)
    with pytest.raises(RateLimitedError, match="capability") as caught:
        limiter.check_claimed(PEER, CAPABILITY)
    assert caught.value.is_dropped
    limiter.check_claimed(PEER, "experimental.other")
    limiter.check_claimed(OTHER, CAPABILITY)
    clock.now += 10 * 1_000_000
    limiter.check_claimed(PEER, CAPABILITY)


def test_memory_is_bounded(clock):
    """The number of meters stays bounded; full buckets are evicted first, used ones stay."""
    limiter = RateLimiter(ME, clock, max_meters=50)
    for number in range(1_000):
        assert outcome(limiter, f"ed25519:idle{number}") == "ok"
        assert len(limiter) <= 50
    clock.now += NS  # all of these are full now
    for _ in range(10):
        assert outcome(limiter) == "ok"
    for number in range(20):
        outcome(limiter, f"ed25519:new{number}")
    assert len(limiter) <= 50
    assert outcome(limiter) == "soft_capability"  # what it has used was not forgotten


def test_callers_that_are_idle_are_forgotten_at_once_and_no_other(clock):
    """Those unused for the longest time go first, and all that are as good as new with them; a used one stays."""
    limiter = RateLimiter(ME, clock, max_meters=6)  # two a caller
    for caller in (PEER, "ed25519:idle", "ed25519:idle too"):
        assert outcome(limiter, caller) == "ok"
    clock.now += NS
    assert [outcome(limiter) for _ in range(10)] == ["ok"] * 10
    assert outcome(limiter, OTHER) == "ok"

    assert len(limiter) == 4
    assert outcome(limiter, "ed25519:new") == "ok"
    assert outcome(limiter) == "soft_capability"


@pytest.mark.parametrize(("wait_ns", "told_ms"), [(1, 1), (1_000_000, 1), (99_000_000, 99), (99_000_001, 100)])
def test_wait_is_told_in_whole_milliseconds_rounded_up(limiter, clock, wait_ns, told_ms):
    """A caller that waits so long is served; a part of a millisecond counts as one."""
    for _ in range(10):
        limiter.check(PEER, CAPABILITY)
    clock.now += 100 * 1_000_000 - wait_ns
    with pytest.raises(RateLimitedError) as caught:
        limiter.check(PEER, CAPABILITY)

    assert caught.value.retry_after_ms == told_ms


def test_meter_with_one_limit_in_use_is_not_forgotten(clock):
    """Of a capability whose calls were refused for the caller's total, the hard limit alone was used."""
    limiter = RateLimiter(ME, clock, max_meters=103)
    for number in range(RATE_LIMIT_SOFT_RPS_TOTAL):
        assert outcome(limiter, capability=f"experimental.c{number}") == "ok"
    assert {outcome(limiter) for _ in range(RATE_LIMIT_HARD_RPS_PER_CAP)} == {"soft_peer"}
    for number in range(51):  # they push out the hundred, and at last the caller's total: this capability is next
        assert outcome(limiter, f"ed25519:new{number}") == "ok"

    with pytest.raises(RateLimitedError, match="capability"):
        limiter.check_claimed(PEER, CAPABILITY)


def test_bus_counts_by_capability_and_reason(clock):
    """A call refused by the bus is counted under its capability or `other`, and leaves no trace."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    bus = CapabilityBus(ME, lambda _: "member")
    bus.limiter = RateLimiter(ME, clock)  # a bucket regains a token every few milliseconds, and would while this runs
    bus.register(CapabilityDescriptor(name=CAPABILITY, version=(1, 0)), lambda _: {})
    for name in (CAPABILITY, "experimental.invented", "experimental.made_up"):
        for _ in range(60):
            try:
                bus.check_rate(PEER, name)
            except RateLimitedError as error:
                assert not error.is_dropped or name == "experimental.made_up"  # noqa: PT017  # some are, some are not
    with pytest.raises(RateLimitedError):
        bus.check_rate(PEER, "experimental.third", is_claimed=True)

    page = metrics.exposition()[0].decode()
    lines = [line for line in page.splitlines() if "rate_limited_total{" in line and not line.endswith(" 0.0")]
    assert sorted(lines) == [
        f'hearthnet_rate_limited_total{{capability="{CAPABILITY}",reason="soft_capability"}} 50.0',
        'hearthnet_rate_limited_total{capability="other",reason="hard_capability"} 21.0',
        'hearthnet_rate_limited_total{capability="other",reason="soft_capability"} 90.0',
    ]
    assert trace.get_recent(10) == []


def test_bucket_is_full_as_soon_as_its_last_token_is_back():
    """Not a nanosecond before."""
    bucket = Bucket(10)
    bucket.take(7 * NS)

    assert [bucket.is_full(7 * NS + NS // 10 + late) for late in (-1, 0, 1)] == [False, True, True]
