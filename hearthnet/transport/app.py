"""The FastAPI application of a node: routes, exception handlers, middleware."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeGuard

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from hearthnet import __version__
from hearthnet.config import TransportConfig
from hearthnet.errors import WireError
from hearthnet.observability import get_logger
from hearthnet.observability.logs.levels import Levels
from hearthnet.transport.admission.gate import Gate, Load
from hearthnet.transport.admission.guard import Guard, ResponseHeaders
from hearthnet.transport.api.control import control
from hearthnet.transport.api.error_body import error_body, internal_error, validation_failure
from hearthnet.transport.api.openapi import openapi
from hearthnet.transport.api.routes import Services, calls, operations, telemetry
from hearthnet.transport.page.feed import Feed
from hearthnet.transport.page.routes import page_data, page_files
from hearthnet.transport.page.shell import page_version
from hearthnet.transport.page.source import Page
from hearthnet.transport.page.views import Overview

__all__ = ["PAGE_ROUTERS", "ROUTERS", "build_app", "build_page_app"]

log = get_logger(__name__)

# All routes of the node; `exposure` lists them with who may use each.
PAGE_ROUTERS: Final = (page_data, page_files)
ROUTERS: Final = (calls, telemetry, operations, control, openapi, *PAGE_ROUTERS)
_NOT_FOUND: Final = 404
_OTHER_METHOD: Final = 405
_FIRST_SERVER_ERROR: Final = 500  # below, the caller is at fault


def build_app(
    services: Services,
    levels: Levels | None = None,
    load: Load | None = None,
    transport: TransportConfig | None = None,
) -> ASGIApp:
    """Returns the application of a node.

    Args:
        services: the parts of the node that the routes use.
        levels: levels of the node's loggers.
        load: load of the server that runs it.
        transport: further host names, and the largest body.
    """
    load = load or Load()
    app = _framework(ROUTERS)
    app.state.services = services
    app.state.levels = levels or Levels()
    _serve_page(app, services.page, load)
    guard = _guarded(app, ROUTERS, load, transport)
    return ResponseHeaders(guard, services.bus.node_id)  # outside the framework's own error handling


def build_page_app(page: Page, load: Load | None = None, transport: TransportConfig | None = None) -> ASGIApp:
    """Returns an application that serves a page alone, without a node.

    Args:
        page: the page.
        load: load of the server that runs it.
        transport: further host names, and the largest body.
    """
    load = load or Load()
    app = _framework(PAGE_ROUTERS)
    _serve_page(app, page, load)
    return ResponseHeaders(_guarded(app, PAGE_ROUTERS, load, transport), "")


def _framework(routers: Sequence[APIRouter]) -> FastAPI:
    app = FastAPI(
        title="HearthNet node",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # no second spelling of a path
        routes=[route for router in routers for route in router.routes],  # to include a router builds all of it again
    )
    app.add_exception_handler(WireError, _wire_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    return app


def _guarded(app: ASGIApp, routers: Sequence[APIRouter], load: Load, transport: TransportConfig | None) -> ASGIApp:
    posts = {route.path for router in routers for route in router.routes if _takes_post(route)}
    return Guard(Gate(app, load), transport or TransportConfig(), load, posts)


def _serve_page(app: FastAPI, page: Page | None, load: Load) -> None:
    """Gives an application the page that its routes show; its streams and processes end when the server stops."""
    app.state.page = page
    if page is not None:
        app.state.overview = Overview(page)
        app.state.feed = Feed(page, app.state.overview)
        load.at_stop += [app.state.feed.end, page.children.close]
        # Now, not with the first request: by then an upgrade may have brought files that are not of this program.
        with suppress(OSError, ValueError):  # a damaged installation has no page: its requests say so
            page_version()


def _takes_post(route: BaseRoute) -> TypeGuard[APIRoute]:
    return isinstance(route, APIRoute) and "POST" in (route.methods or ())


async def _wire_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WireError)
    return JSONResponse(error_body(error), error.status)


async def _bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse(error_body(validation_failure(error)), 400)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == _NOT_FOUND:
        shown = WireError("not_found", "no such route; see: /openapi.json on the node's own machine")
    elif error.status_code == _OTHER_METHOD:
        allowed = (error.headers or {}).get("Allow", "another method").replace("GET", "GET, HEAD")
        return JSONResponse(WireError("bad_request", f"this route allows {allowed}").body(), 405, {"Allow": allowed})
    elif error.status_code < _FIRST_SERVER_ERROR:
        shown = WireError("bad_request", str(error.detail))
    else:
        log.error("request failed", extra={"status": error.status_code, "error": str(error.detail)})
        shown = internal_error()
    return JSONResponse(error_body(shown), error.status_code, headers=error.headers)


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", extra={"path": request.scope["path"]}, exc_info=error)
    return JSONResponse(internal_error().body(), 500)
