"""HTTP server on a port that is bound before anything else starts, so that a port in use fails at once."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from hearthnet.config import TransportConfig
from hearthnet.errors import HearthNetError
from hearthnet.observability import get_logger
from hearthnet.transport.admission.load import Load
from hearthnet.transport.connection.connections import Connection, Connections
from hearthnet.transport.connection.fd_limit import connections_for
from hearthnet.transport.connection.listener import Listener
from hearthnet.transport.connection.protocol import BoundedProtocol
from hearthnet.transport.tls import HANDSHAKE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S, ServingPair

__all__ = ["Server", "bind"]

_SWEEP_S: Final = 1.0
_GRACE_S: Final = 1.0  # for requests other than calls, after the last call has ended
_GRACE_POLLS: Final = 50
_BACKLOG: Final = 2_048

log = get_logger(__name__)


def bind(config: TransportConfig) -> socket.socket:
    """Returns a socket bound to the configured address.

    Raises:
        HearthNetError: raised when the address is in use or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # With the protocol number: asyncio sets TCP_NODELAY only then; else a response in two pieces waits 40 ms.
    server = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((config.host, config.port))
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise HearthNetError(
                f"port {config.port} is already in use",
                hint="is a node already running? see: hearthnet status; or set another [transport] port",
            ) from error
        raise HearthNetError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}",
            hint="set [transport] host to an address of this machine, or port to one above 1023",
        ) from error
    return server


class Server:
    """Serves an application with uvicorn's protocol; accepting, limits and stopping are its own.

    Args:
        app: the application; built with the same `load`, so that it counts the calls.
        config: certificate paths and limits.
        load: the current load, shared with the application.
        node_id: named in responses that do not reach the application.

    Attributes:
        started: the server listens.
    """

    def __init__(self, app: ASGIApp, config: TransportConfig, load: Load | None = None, node_id: str = "") -> None:
        self._load = load or Load()
        self._node_id = node_id
        self._connections = Connections(config.max_connections, config.max_body_bytes)
        self._config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,  # the node configures logging
            access_log=False,  # traces have more
            proxy_headers=False,  # otherwise any client could claim to be 127.0.0.1
            server_header=False,
        )
        self._config.load()
        self._state = ServerState()
        self._pair = ServingPair.of(config)
        self._stopping = asyncio.Event()
        self.started = False

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Serves on bound sockets until `stop`; then ends calls and connections, and closes the sockets."""
        self._connections.limit = connections_for(self._connections.limit)
        tls: dict[str, Any] = {}
        if self._pair is not None:
            tls = {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S, "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT_S}
        context = None if self._pair is None else self._pair.context
        listeners = [Listener(one, self._connections, self._protocol, _BACKLOG, context, **tls) for one in sockets]
        self.started = True
        while not self._stopping.is_set():
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            self._sweep()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _SWEEP_S)
        await self._load.stop()  # meanwhile new calls still get a refusal
        for listener in listeners:
            listener.close()
        await self._end_requests()
        for listener in listeners:
            await listener.wait_closed()

    def _sweep(self) -> None:
        try:
            self._connections.sweep()
        except Exception:  # one connection's fault must not end the server
            log.exception("connections cannot be checked")

    def _protocol(self, connection: Connection) -> asyncio.Protocol:
        return BoundedProtocol(
            connection,
            self._connections,
            self._load,
            self._node_id,
            config=self._config,
            server_state=self._state,
        )

    async def _end_requests(self) -> None:
        for protocol in tuple(self._state.connections):
            protocol.shutdown()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks), timeout=_GRACE_S)
        for task in tuple(self._state.tasks):
            task.cancel()
        for protocol in tuple(self._state.connections):
            protocol.transport.close()
        for _ in range(_GRACE_POLLS):  # for unsent responses, and the end of TLS
            if not self._state.connections:
                return
            await asyncio.sleep(_GRACE_S / _GRACE_POLLS)
        for protocol in tuple(self._state.connections):
            protocol.transport.abort()

    def stop(self) -> None:
        """Makes `serve` end the running calls and return."""
        self._stopping.set()
