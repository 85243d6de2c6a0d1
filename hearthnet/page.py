"""The page without a node: of any program that records with `telemetry.open`, or of files from elsewhere. Read only.

    from hearthnet.page import page_app
    app.mount("/telemetry", page_app())           # of Starlette, FastAPI or any other ASGI framework

`hearthnet page --url http://127.0.0.1:8000/telemetry/` then prints a link to it. `hearthnet page --data DIR` serves a
folder by itself.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hearthnet.config import ObservabilityConfig, TransportConfig
from hearthnet.config_file import absolute
from hearthnet.locations import locate
from hearthnet.observability import telemetry
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.app import build_page_app
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.page.source import Page, PageSettings
from hearthnet.transport.server import Server

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["page_app", "page_of", "serve"]


def page_app(data_dir: Path | None = None, *, log_dir: Path | None = None, hosts: Sequence[str] = ()) -> ASGIApp:
    """Returns the page as an ASGI application to mount, for the owner of the store's folder.

    Args:
        data_dir: the folder of telemetry.db; None: that of the telemetry that is open, or the standard one.
        log_dir: the folder of the JSON logs; None: likewise.
        hosts: host names besides those of this machine by which the program is reached.
    """
    opened = telemetry.opened()
    if data_dir is None:
        where = locate() if opened is None else opened.config
        data_dir, log_dir = where.data_dir, log_dir or where.log_dir
    assert data_dir is not None
    page = page_of(absolute(data_dir), log_dir, Grants(absolute(data_dir)))
    return _Mounted(build_page_app(page, transport=TransportConfig(hosts=tuple(hosts))))


class _Mounted:
    """Removes the path at which an application is mounted: its guard compares whole paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "").rstrip("/")
        if root and scope["path"].startswith(f"{root}/"):
            scope = {**scope, "path": scope["path"][len(root) :]}
        await self._app({**scope, "root_path": ""}, receive, send)


def page_of(
    data_dir: Path,
    log_dir: Path | None,
    grants: Grants,
    settings: ObservabilityConfig | None = None,
    doctor: Callable[[], list[dict[str, Any]]] | None = None,
) -> Page:
    """Returns the page of a store's folder.

    Args:
        data_dir: the folder of telemetry.db.
        log_dir: the folder of the JSON logs; None: found beside the store, as far as it is needed.
        grants: who may use it.
        settings: whose bounds apply; None: the defaults.
        doctor: runs all checks; None: it is not possible here.
    """
    bound = (settings or ObservabilityConfig()).max_disk_mb
    return Page(PageSettings(data_dir, log_dir, bound), grants, doctor)


async def serve(page: Page, listening: socket.socket, transport: TransportConfig) -> None:
    """Serves a page on a bound socket until SIGINT or SIGTERM."""
    load = Load()
    server = Server(build_page_app(page, load, transport), transport, load)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    try:
        await server.serve([listening])
    finally:
        page.close()
