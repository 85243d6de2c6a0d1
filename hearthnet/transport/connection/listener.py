"""Accepts connections, and limits them before anything is spent on them, TLS handshakes included.

asyncio's own server reports a connection only after its handshake, logs a traceback for each failed accept, and then
accepts nothing for a second.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from hearthnet.errors import WireError
from hearthnet.transport.admission.refusals import count_refused
from hearthnet.transport.connection.connections import Connection, Connections
from hearthnet.transport.connection.protocol import error_response

__all__ = ["Listener"]

ACCEPTS_A_TURN: Final = 16  # then open connections get a turn of the loop
RETRY_S: Final = 0.1  # after an accept that failed for lack of descriptors or memory
_NO_SLOT: Final = WireError("partition", "this node has no connection to spare", retry_after_ms=1_000)
_DRAIN_BYTES: Final = 16_384  # bytes of a refused request to read, so that closing does not discard the response


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
