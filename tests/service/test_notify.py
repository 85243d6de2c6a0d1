"""Messages to systemd, against a socket that stands in for its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys

import pytest

from hearthnet.service.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A manager's socket, and its address as systemd writes it."""
    name = f"hearthnet-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        address = str(tmp_path / "notify") if request.param == "path" else f"@{name}"
        receiver.bind(address if request.param == "path" else f"\0{name}")
        receiver.settimeout(30)
        yield receiver, address


def test_start_and_end_are_told(manager):
    """As one datagram each, with a status that is one line."""
    receiver, address = manager

    async def serve():
        notifier = Notifier(address)
        notifier.ready("serving\non port 7080")
        notifier.stopping("waiting for calls")
        await notifier.close()

    asyncio.run(serve())

    assert receiver.recv(4_096) == b"READY=1\nSTATUS=serving on port 7080"
    assert receiver.recv(4_096) == b"STOPPING=1\nSTATUS=waiting for calls"


def test_signs_of_life_come_from_the_loop(manager):
    """One at once and one each half interval, none while the loop is blocked, none after the end."""
    receiver, address = manager

    async def serve():
        notifier = Notifier(address, watchdog_s=0.02)
        notifier.ready("serving")
        receiver.recv(64)
        found = [await asyncio.to_thread(receiver.recv, 64) for _ in range(3)]
        receiver.setblocking(False)
        drain(receiver)
        with pytest.raises(BlockingIOError):
            receiver.recv(64)  # this thread is the loop's: what it does blocks it
        receiver.settimeout(30)
        found.append(await asyncio.to_thread(receiver.recv, 64))
        await notifier.close()
        await notifier.close()
        drain(receiver)
        await asyncio.sleep(0)
        return found

    assert asyncio.run(serve()) == [b"WATCHDOG=1"] * 4
    with pytest.raises(BlockingIOError):
        receiver.recv(64)


def drain(receiver):
    """Takes what has come."""
    receiver.setblocking(False)
    while True:
        try:
            receiver.recv(64)
        except BlockingIOError:
            return


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),  # meant for the parent
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "a minute"}, None),
        ({"WATCHDOG_USEC": "9" * 5_000}, None),
        ({}, None),
    ],
)
def test_interval_is_read_as_systemd_writes_it(variables, watchdog_s):
    """Microseconds, for this process alone."""
    assert Notifier.of_environment({"NOTIFY_SOCKET": "/run/notify", **variables}).watchdog_s == watchdog_s


def test_children_cannot_speak_for_the_service(manager, monkeypatch):
    """The variables are gone once they are read."""
    receiver, address = manager
    for name, value in {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}.items():
        monkeypatch.setenv(name, value)

    notifier = Notifier.of_environment()
    program = "import os; print([name for name in os.environ if 'NOTIFY' in name or 'WATCHDOG' in name])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert child.stdout == "[]\n"
    assert notifier.watchdog_s == 1.0
    notifier.stopping("end")
    assert receiver.recv(64).startswith(b"STOPPING=1")


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@hearthnet-nobody-listens", "/" + "x" * 200])
def test_manager_that_is_away_is_counted(address):
    """Nothing raises, and the next message is tried again."""
    notifier = Notifier(address)
    notifier.stopping("end")
    notifier.stopping("end")

    assert notifier.failures == 2


def test_full_queue_of_the_manager_is_counted(tmp_path):
    """A manager that does not read holds nothing up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        notifier = Notifier(str(tmp_path / "notify"))
        for _ in range(10_000):
            notifier.stopping("x" * 500)
            if notifier.failures:
                break

    assert notifier.failures == 1


@pytest.mark.parametrize("address", [None, "", "relative/notify", "vsock:2:1234"])
def test_without_a_manager_nothing_is_sent(address):
    """And no sign of life is due."""
    notifier = Notifier(address, watchdog_s=1.0)
    notifier.stopping("end")

    assert (notifier.failures, notifier.watchdog_s) == (0, None)
