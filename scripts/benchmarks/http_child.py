"""A server for `benchmarks.http`: a node's application with the echo service, and telemetry on, idle or absent.

    on    as a node runs it: traces, JSON log with its "done" lines, metrics, black box, database
    bare  the instruments are called and record nothing
    off   traces and spans are replaced by nothing at all, which no node can be told to do: the cost of the rest

Prints its port, then answers "cpu" and "end" on standard input. `python -m benchmarks.http_child KIND FOLDER`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import click
import orjson

from benchmarks import stand_ins
from hearthnet.bus.bus import CapabilityBus
from hearthnet.config import ObservabilityConfig, TransportConfig
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import metrics, telemetry
from hearthnet.observability.telemetry import Telemetry
from hearthnet.services import echo
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.api.routes import Services
from hearthnet.transport.app import build_app
from hearthnet.transport.auth.replay import Replays
from hearthnet.transport.server import Server

__all__ = ["main"]

_KINDS: Final = ("on", "bare", "off")
_WRITTEN: Final = re.compile(rb'^hearthnet_telemetry_written_total\{kind="trace"\} (\S+)', re.MULTILINE)


def _tell(**what: Any) -> None:
    click.echo(orjson.dumps(what))


def _answer(line: str) -> bool:
    """Answers a question; returns whether there may be more."""
    if line == "cpu\n":
        _tell(cpu_s=time.process_time())
    return line == "cpu\n"


async def _serve(services: Services, keys: KeyPair) -> None:
    load = Load()
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        server = Server(build_app(services, load=load), TransportConfig(host="127.0.0.1"), load, keys.node_id)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        _tell(port=listening.getsockname()[1])
        while _answer(await asyncio.to_thread(sys.stdin.readline)):
            pass
        server.stop()
        await serving


def main(kind: str, folder: Path) -> None:
    """Serves until it is told to end; then tells how many traces it has stored."""
    assert kind in _KINDS, kind
    keys = KeyPair.load(folder / "keys")
    manifest = Manifest.genesis("bench", keys)
    bus = CapabilityBus(keys.node_id, manifest.level_of)
    bus.register(echo.DESCRIPTOR, echo.echo)
    stored = 0
    with ExitStack() as stack:
        recording: Any = SimpleNamespace()
        if kind == "on":
            data_dir = folder / kind
            config = ObservabilityConfig(data_dir=data_dir, log_dir=data_dir / "logs")
            recording = stack.enter_context(telemetry.open(config))
        elif kind == "off":
            stand_ins.install()
        services = Services(
            bus,
            cast(Telemetry, recording),
            lambda: manifest,
            lambda _: None,
            dict,
            lambda _: [],
            keys=keys,
            replays=Replays(keys.node_id),  # the caller is the node itself: a member's share ends after 16,384 calls
        )
        asyncio.run(_serve(services, keys))
        if kind == "on":
            recording.flush()
            found = _WRITTEN.search(metrics.exposition()[0])
            stored = int(float(found[1])) if found else 0
    _tell(stored=stored)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
