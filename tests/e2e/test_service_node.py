"""A real node that is started as systemd starts it: with a socket to tell how it is."""

from __future__ import annotations

import signal
import socket

import httpx
import pytest


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """The manager's socket, which a node that is started now finds in its environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        yield receiver


def until(receiver, wanted):
    """The next message that begins so; those before it are signs of life."""
    while (message := receiver.recv(4_096).decode()) and not message.startswith(wanted):
        assert message == "WATCHDOG=1"
    return message


def test_node_tells_when_it_is_ready_alive_and_ending(stopped_node, manager):
    """Ready is not before it listens; signs of life come until the end."""
    stopped_node.start()
    ready = until(manager, "READY=1")
    assert httpx.get(f"{stopped_node.url}/ready", timeout=30).status_code == 200
    assert ready == f"READY=1\nSTATUS=serving on port {stopped_node.port}"
    assert [until(manager, "WATCHDOG=1") for _ in range(3)] == ["WATCHDOG=1"] * 3

    assert stopped_node.stop(signal.SIGTERM) == 0
    assert until(manager, "STOPPING=1").startswith("STOPPING=1\nSTATUS=ending")
