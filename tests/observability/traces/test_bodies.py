"""The switch that records bodies: off, on for one capability, off again by itself."""

from __future__ import annotations

import json

import pytest
from support.clock import Clock

from hearthnet.constants import MAX_STRING_BYTES
from hearthnet.observability.redaction import rules as redaction
from hearthnet.observability.traces.bodies import MAX_FOR_S, Bodies


@pytest.fixture
def clock():
    """A clock that does not advance."""
    return Clock(100.0)


@pytest.fixture
def bodies(clock):
    """A switch that is off."""
    return Bodies(clock)


def test_nothing_is_allowed_at_first(bodies):
    """A new switch keeps nothing and touches no extras."""
    extras = {}

    assert not bodies.is_allowed("llm.chat")
    assert bodies.keep("llm.chat", extras, {"input": "hi"}) is None
    assert (extras, bodies.current()) == ({}, {})


def test_one_capability_is_allowed_until_its_time_is_over(bodies, clock):
    """Only the one that was named, only for so long, and it need not be asked to be over."""
    bodies.allow("llm.chat", 60)
    clock.now += 59

    assert bodies.is_allowed("llm.chat")
    assert not bodies.is_allowed("llm.embed")
    assert bodies.current() == {"llm.chat": 1.0}
    clock.now += 1
    assert bodies.current() == {}
    assert not bodies.is_allowed("llm.chat")


def test_it_can_be_refused_before(bodies, logged):
    """One, or all; what was never allowed can be refused as well. The log says all of it."""
    for name in ("a.a", "b.b", "c.c"):
        bodies.allow(name, 60)
    bodies.refuse("b.b")
    bodies.refuse("d.d")

    assert set(bodies.current()) == {"a.a", "c.c"}
    bodies.refuse()
    assert bodies.current() == {}
    said = [(record.levelname, record.getMessage(), record.capability) for record in logged]
    assert said[:3] == [("WARNING", "bodies are recorded", name) for name in ("a.a", "b.b", "c.c")]
    assert said[3:] == [("INFO", "bodies are no longer recorded", name) for name in ("b.b", "a.a", "c.c")]


@pytest.mark.parametrize("for_s", [0, -1, MAX_FOR_S + 1, float("inf"), float("nan")])
def test_no_time_and_too_much_time_are_refused(bodies, for_s):
    """It cannot be switched on for good."""
    with pytest.raises(ValueError, match="3600 seconds at most"):
        bodies.allow("llm.chat", for_s)

    assert not bodies.is_allowed("llm.chat")


def test_few_capabilities_at_once(bodies, clock):
    """The number of capabilities is bounded; one that has ended makes room, and a current one can be extended."""
    for number in range(16):
        bodies.allow(f"a.b{number}", 60)
    with pytest.raises(ValueError, match="already"):
        bodies.allow("one.more", 60)
    bodies.allow("a.b0", 120)
    clock.now += 61

    bodies.allow("one.more", 60)
    assert set(bodies.current()) == {"a.b0", "one.more"}


def test_bodies_are_scrubbed_and_bounded(bodies):
    """Secrets by name, by shape and by value are out, however long the body is; what is cut says so."""
    redaction.register_secrets(["orchid-lantern-4471"])
    bodies.allow("llm.chat", 60)
    extras = {}
    text = "mine is orchid-lantern-4471, Bearer mF9B5f41JqMabcdef " + "x" * 5_000
    kept = bodies.keep("llm.chat", extras, {"params": {"api_key": "k-1234"}, "input": {"text": text}})
    kept.take({"text": "password=hunter2", "n": 2**70, "bad": "\ud800"})

    assert not any(secret in str(extras) for secret in ("orchid", "mF9B5f41", "k-1234", "hunter2"))
    assert extras["request_body"].startswith('{"params":{"api_key":"[redacted]"},"input":{"text":"mine is [redacted], ')
    assert len(extras["request_body"].encode()) <= MAX_STRING_BYTES
    assert extras["request_body"].endswith("…[cut]")
    assert json.loads(extras["answer_body"])["text"] == "password=[redacted]"
    kept.take({"text": ["x" * 4_000] * 10})
    assert len(extras["answer_body"].encode()) <= MAX_STRING_BYTES


def test_frames_are_kept_up_to_the_bound(bodies):
    """A stream's frames are lines; an endless stream does not fill the memory, and a wrong frame is kept too."""
    bodies.allow("llm.chat", 60)
    extras = {}
    checked = []

    def check(frame):
        checked.append(frame)
        if not isinstance(frame, dict):
            raise TypeError("no frame")

    take = bodies.keep("llm.chat", extras, {}).checking(check)
    take({"text": "one"})
    with pytest.raises(TypeError):
        take("two")
    assert extras["answer_body"] == '{"text":"one"}\n{"value":"two"}\n'
    for _ in range(1_000):
        take({"text": "more"})

    assert len(checked) == 1_002
    assert len(extras["answer_body"].encode()) <= MAX_STRING_BYTES
