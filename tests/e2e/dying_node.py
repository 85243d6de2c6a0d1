"""A real node with one capability more, which ends it in the way that it is asked for. Run by test_deaths.py."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
from contextlib import closing

from hearthnet.bus.capability import CapabilityDescriptor, RouteRequest
from hearthnet.config import load, resolve_paths
from hearthnet.node import open_node
from hearthnet.observability import trace
from hearthnet.transport.server import bind

DIE = CapabilityDescriptor(name="experimental.die", version=(1, 0), request_schema={"type": "object"})
_ended: asyncio.Future[None]


async def die(request: RouteRequest) -> dict[str, object]:
    """Does not answer, unless the node ends in order: then it would have to wait for this call."""
    way = request.body["input"]["way"]
    with trace.span(f"die_by_{way}"):
        WAYS[way]()
        if not _ended.done():
            await asyncio.Event().wait()
    return {}


def _raise(error: Exception) -> None:
    _ended.set_exception(error)


def _eat() -> None:
    """Takes memory until there is no more, under a limit a little above what the process has."""
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
    taken = []
    try:
        while True:
            taken.append(bytearray(4_000_000))
    except MemoryError as error:
        taken.clear()  # the watchdog and the store need a little to tell of it
        _raise(error)


WAYS = {
    "segv": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "abort": os.abort,
    "raise": lambda: _raise(KeyError("the model's name")),
    "memory": _eat,
    "block": threading.Event().wait,
}


async def main() -> None:
    """The node, until it dies or is told to stop."""
    global _ended
    config = resolve_paths(load())
    with closing(bind(config.transport)) as listening:
        async with open_node(config) as node:
            node.bus.register(DIE, die)
            loop = asyncio.get_running_loop()
            _ended = loop.create_future()
            stop = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, stop.set)
            serving = asyncio.create_task(node.serve(listening, stop))
            await asyncio.wait({serving, _ended}, return_when=asyncio.FIRST_COMPLETED)
            if _ended.done():
                stop.set()
                await serving
                await _ended


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
