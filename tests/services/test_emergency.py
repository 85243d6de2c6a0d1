"""Emergency mode with targets that accept, refuse, hang or are invalid, on loopback sockets."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest

from hearthnet.config import EmergencyConfig
from hearthnet.observability import metrics
from hearthnet.services.emergency import EMERGENCY, NORMAL, OFF, EmergencyProbe


def probe(*targets: str, enabled: bool = True, **options) -> EmergencyProbe:
    """A probe that is not started."""
    return EmergencyProbe(EmergencyConfig(enabled=enabled, probe_targets=targets), timeout_s=0.2, **options)


def states(made: EmergencyProbe) -> dict[str, float]:
    """The values on the metrics page."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    made.refresh_metrics()
    page = metrics.exposition()[0].decode().splitlines()
    lines = [line for line in page if line.startswith("hearthnet_emergency_mode{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


@pytest.fixture
def target(free_port):
    """Opens and closes a server at one address, like the internet coming and going."""
    address = ("127.0.0.1", free_port)
    listening: list[socket.socket] = []

    def switch(*, up: bool) -> str:
        while listening:
            listening.pop().close()
        if up:
            listening.append(socket.create_server(address))
        return f"{address[0]}:{address[1]}"

    yield switch
    switch(up=False)


def test_off_until_it_is_enabled(target):
    """Disabled: no thread, no connection, and the metric says `off`."""
    made = probe(target(up=True), enabled=False)
    with made:
        assert not made._thread.is_alive()
    assert states(made) == {OFF: 1, NORMAL: 0, EMERGENCY: 0}


def test_enabled_without_targets_is_off():
    """Without targets the state is `off`, not `emergency`."""
    assert probe().state == OFF


def test_target_that_answers_is_normal(target):
    """A connection to any target is enough."""
    made = probe(target(up=True))
    for _ in range(3):
        made.check()

    assert states(made) == {OFF: 0, NORMAL: 1, EMERGENCY: 0}


def test_two_rounds_without_an_answer_are_an_emergency(target, logged):
    """One failed round changes nothing; the first response ends the emergency; each change is logged once."""
    made = probe(target(up=False))
    made.check()
    assert made.state == NORMAL
    made.check()
    made.check()
    assert states(made) == {OFF: 0, NORMAL: 0, EMERGENCY: 1}

    target(up=True)
    made.check()
    assert states(made) == {OFF: 0, NORMAL: 1, EMERGENCY: 0}
    told = [record.msg for record in logged if record.name == "hearthnet.services.emergency"]
    assert told == ["emergency mode entered", "emergency mode left"]


def test_rounds_that_fail_now_and_then_are_none(target):
    """Only two successive failed rounds count."""
    made = probe(target(up=False))
    for up in (False, True, False, True, False):
        target(up=up)
        made.check()

    assert made.state == NORMAL


def test_one_target_of_many_is_enough(target):
    """Targets before it may refuse, be invalid or empty."""
    made = probe("127.0.0.1:1", "no such name.invalid", "127.0.0.1:99999999", "[::1", "", target(up=True))
    for _ in range(2):
        made.check()

    assert made.state == NORMAL


@pytest.mark.parametrize("wrong", ["127.0.0.1:99999999", "[::1", "a..b", "x" * 300, "\udcff"])
def test_targets_that_are_none_do_not_answer(wrong):
    """Invalid targets do not end the thread."""
    made = probe(wrong)
    made.check()
    made.check()

    assert made.state == EMERGENCY


def test_thread_probes_from_beginning_to_end(target):
    """The state changes by itself, and leaving the context ends the thread long before its next round."""
    seen = threading.Event()
    made = probe(target(up=False), every_s=0.01)
    check = made.check

    def watched():
        check()
        if made.state == EMERGENCY:
            seen.set()

    made.check = watched
    with made:
        assert seen.wait(30)
        made._every_s = 3_600
    made._thread.join(30)
    assert not made._thread.is_alive()
