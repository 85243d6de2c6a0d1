"""Runs the application on a port that is bound before anything else starts, so that a taken one fails at once."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from hearthnet.config import TransportConfig
from hearthnet.errors import HearthNetError

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
    """uvicorn without its handling of signals: the node stops it, in its own order."""

    def __init__(self, app: ASGIApp, config: TransportConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,  # the node's own logging is in place
                access_log=False,  # a trace tells more
                proxy_headers=False,  # anyone could claim to be 127.0.0.1 otherwise
                server_header=False,
                timeout_graceful_shutdown=1,
                ssl_certfile=str(config.tls_cert) if config.tls_cert else None,
                ssl_keyfile=str(config.tls_key) if config.tls_key else None,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    def stop(self) -> None:
        """Has `serve` finish the answers that are under way, for at most a second, and return."""
        self.should_exit = True
