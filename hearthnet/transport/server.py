"""HTTP server on a port that is bound before anything else starts, so that a port in use fails at once.

It accepts connections itself, and limits them before anything is spent on them, TLS handshakes included. asyncio's own
server reports a connection only after its handshake, logs a traceback for each failed accept, and then accepts nothing
for a second.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from hearthnet.config import TransportConfig
from hearthnet.errors import HearthNetError, WireError
from hearthnet.observability import get_logger
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.admission.refusals import count_refused
from hearthnet.transport.connection.connections import Connection, Connections
from hearthnet.transport.connection.fd_limit import connections_for
from hearthnet.transport.connection.protocol import BoundedProtocol, error_response
from hearthnet.transport.tls import HANDSHAKE_TIMEOUT_S, SHUTDOWN_TIMEOUT_S, ServingPair

__all__ = ["Listener", "Server", "bind"]

log = get_logger(__name__)

_SWEEP_S: Final = 1.0
_GRACE_S: Final = 1.0  # for requests other than calls, after the last call has ended
_GRACE_POLLS: Final = 50
_BACKLOG: Final = 2_048
ACCEPTS_A_TURN: Final = 16  # then open connections get a turn of the loop
RETRY_S: Final = 0.1  # after an accept that failed for lack of descriptors or memory
_NO_SLOT: Final = WireError("partition", "this node has no connection to spare", retry_after_ms=1_000)
_DRAIN_BYTES: Final = 16_384  # bytes of a refused request to read, so that closing does not discard the response


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

    async def serve(self, sockets: list[socket.socket], on_started: Callable[[], None] | None = None) -> None:
        """Serves on bound sockets until `stop`; then ends calls and connections, and closes the sockets.

        Args:
            sockets: bound ones.
            on_started: called once they listen.
        """
        self._connections.limit = connections_for(self._connections.limit)
        tls: dict[str, Any] = {}
        if self._pair is not None:
            tls = {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S, "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT_S}
        context = None if self._pair is None else self._pair.context
        listeners = [Listener(one, self._connections, self._protocol, _BACKLOG, context, **tls) for one in sockets]
        self.started = True
        if on_started is not None:
            on_started()
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


class _Handshake:
    """Replaces the protocol of a connection until its handshake is done."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def abort(self) -> None:
        """Closes the connection."""
        self._task.cancel()

    expire = abort

    def unsent_bytes(self) -> int:
        """Returns 0: there is no response yet."""
        return 0

    def is_reading(self) -> bool:
        """Returns True: the server waits for the client."""
        return True

    def is_closing(self) -> bool:
        """Returns False: asyncio limits the handshake."""
        return False


class Listener:
    """Accepts connections on a socket until closed.

    Args:
        listening: a bound socket; closed together with the listener.
        connections: the table of open connections.
        protocol: factory for the protocol of a connection.
        backlog: length of the kernel's accept queue.
        context: TLS context; None for plain HTTP.
        tls: further arguments of `loop.connect_accepted_socket`.
    """

    def __init__(
        self,
        listening: socket.socket,
        connections: Connections,
        protocol: Callable[[Connection], asyncio.Protocol],
        backlog: int,
        context: ssl.SSLContext | None = None,
        **tls: Any,
    ) -> None:
        self._socket = listening
        self._connections = connections
        self._protocol = protocol
        self._context = context
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        listening.listen(backlog)
        self._start()

    def _start(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Stops accepting. Idempotent."""
        if self._retry is not None:
            self._retry.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        for task in tuple(self._tasks):
            task.cancel()

    async def wait_closed(self) -> None:
        """Returns when no handshake is in progress."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                made, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._wait_for_descriptors(error)
                return
            self._open(made, address[0])

    def _wait_for_descriptors(self, error: OSError) -> None:
        """Evicts a connection and retries in a moment: the kernel would report the socket as ready without a pause."""
        count_refused("descriptors", error=error.strerror)
        self._connections.evict()
        self._loop.remove_reader(self._socket.fileno())
        self._retry = self._loop.call_later(RETRY_S, self._start)

    def _open(self, made: socket.socket, host: str) -> None:
        admitted = self._connections.admit(host)
        if admitted is None:
            count_refused("connections", address=host)
            self._refuse(made)
            return
        task = self._loop.create_task(self._connect(made, admitted))
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_connected, made, admitted))
        admitted.peer = _Handshake(task)

    def _refuse(self, made: socket.socket) -> None:
        """Sends a refusal, if that is possible without waiting."""
        with made, suppress(OSError):
            made.setblocking(False)
            if self._context is None:
                made.send(error_response(_NO_SLOT))
                made.shutdown(socket.SHUT_WR)
                made.recv(_DRAIN_BYTES)

    async def _connect(self, made: socket.socket, connection: Connection) -> None:
        factory = partial(self._protocol, connection)
        await self._loop.connect_accepted_socket(factory, made, ssl=self._context, **self._tls)

    def _on_connected(self, made: socket.socket, connection: Connection, task: asyncio.Task[None]) -> None:
        """Cleans up after a connection that failed; its task may have been cancelled before it began."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is None:
            return
        if not task.cancelled():
            count_refused("handshake", address=connection.host, error=type(task.exception()).__name__)
        self._connections.remove(connection)
        made.close()
