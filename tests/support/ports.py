"""Ports for servers of tests that run side by side."""

from __future__ import annotations

import atexit
import random
import socket
from pathlib import Path


def reserve_port() -> int:
    """Returns a TCP port of loopback that nothing listens on, and that no other test of this machine is given.

    A port that the kernel picks could be the local end of another test's connection a moment later: these are below
    the range that it picks from. A name in the abstract namespace holds one until this process ends.
    """
    lowest_picked = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    ports = list(range(min(20_000, lowest_picked // 2), lowest_picked))
    random.shuffle(ports)
    for port in ports:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0hearthnet-tests-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        atexit.register(name.close)
        return port
    raise AssertionError("every port is taken")
