"""Runs the application on a port that is bound before anything else starts, so that a taken one fails at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from hearthnet.config import TransportConfig
from hearthnet.errors import HearthNetError
from hearthnet.transport.connections import Connection, Connections
from hearthnet.transport.descriptors import connections_for
from hearthnet.transport.listener import Listener
from hearthnet.transport.load import Load
from hearthnet.transport.protocol import CallProtocol
from hearthnet.transport.tls import HANDSHAKE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S, ServingPair

__all__ = ["Server", "bind"]


def bind(config: TransportConfig) -> socket.socket:
    """Returns a socket bound to the configured address.

    Raises:
        HearthNetError: raised when the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # By its number: asyncio turns delay off only on sockets that say TCP; else an answer in two pieces waits 40 ms.
    server = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((config.host, config.port))
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise HearthNetError(
                f"port {config.port} is taken",
                hint="is a node running already? see: hearthnet status; or set another [transport] port",
            ) from error
        raise HearthNetError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}",
            hint="set [transport] host to an address of this machine, or port to one above 1023",
        ) from error
    return server


class Server(uvicorn.Server):
    """uvicorn without its handling of signals: the node stops it, in its own order.

    Args:
        app: what answers; built with the same `load`, so that it counts the calls.
        config: where certificates are, and how much is taken.
        load: what there is to do.
        node_id: named in answers that are given before the application is asked.
    """

    def __init__(self, app: ASGIApp, config: TransportConfig, load: Load | None = None, node_id: str = "") -> None:
        self._load = load or Load()
        largest = config.max_body_bytes
        self._connections = Connections(config.max_connections, config.max_connections_per_address, largest)
        settings = uvicorn.Config(
            app,
            http=CallProtocol.of(self._load, node_id, self._connections, largest),
            ws="none",
            lifespan="off",
            log_config=None,  # the node's own logging is in place
            access_log=False,  # a trace tells more
            proxy_headers=False,  # anyone could claim to be 127.0.0.1 otherwise
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        settings.load()
        self._pair = ServingPair.of(config)
        settings.ssl = None if self._pair is None else self._pair.context
        super().__init__(settings)
        self._listeners: list[Listener] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens with bounds on connections, and on the beginning and the end of TLS."""
        self._connections.most = connections_for(self._connections.most)
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S, "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT_S}

        def protocol(connection: Connection) -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # it is a class of theirs
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                connection=connection,
            )
            return made

        self.servers = []  # of asyncio there are none
        self._listeners = [
            Listener(one, self._connections, protocol, self.config.backlog, self.config.ssl, **tls)
            for one in sockets or ()
        ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Looks at the connections once a second; uvicorn asks ten times."""
        if counter % 10 == 0:
            self._connections.look()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    def stop(self) -> None:
        """Has `serve` end the calls that are under way and return: see `shutdown`."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the calls (`Load.stop`) while new ones are still told that they come too late; then closes the port.

        What else is being answered gets another second.
        """
        await self._load.stop()
        for listener in self._listeners:
            listener.close()
        await super().shutdown(sockets)
        for listener in self._listeners:
            await listener.wait_closed()
