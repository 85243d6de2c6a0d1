"""The FastAPI application of a node: routes, errors in the wire's form, who may read what."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from hearthnet import __version__
from hearthnet.errors import WireError
from hearthnet.observability import get_logger
from hearthnet.observability.levels import Levels
from hearthnet.transport.control import control
from hearthnet.transport.control_bodies import control_bodies
from hearthnet.transport.documentation import documentation
from hearthnet.transport.gate import Gate
from hearthnet.transport.load import Load
from hearthnet.transport.middleware import NameSender
from hearthnet.transport.refusal import error_body
from hearthnet.transport.routes import Services, calls, operations, telemetry

__all__ = ["ROUTERS", "build_app"]

log = get_logger(__name__)

# All that the node answers; what is reachable from where is read off them.
ROUTERS: Final = (calls, telemetry, operations, control, control_bodies, documentation)
_CODES = {
    400: "bad_request",
    403: "unauthorized",
    404: "not_found",
    405: "bad_request",
    413: "bad_request",
    422: "bad_request",
}


def build_app(services: Services, levels: Levels | None = None, load: Load | None = None) -> ASGIApp:
    """Returns the application; `levels` are those of the node's loggers, `load` is that of the server it runs in."""
    app = FastAPI(title="HearthNet node", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services
    app.state.levels = levels or Levels()
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(WireError, _wire_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    # Outermost, around the framework's own handling of errors: every answer names the node.
    return NameSender(Gate(app, load or Load()), services.bus.node_id)


async def _wire_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WireError)
    return JSONResponse(error_body(error), error.status)


async def _bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return JSONResponse(error_body(WireError("bad_request", f"{place}: {first['msg']}")), 400)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "internal_error")
    return JSONResponse({"error": code, "message": str(error.detail)}, error.status_code)


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", extra={"path": request.url.path}, exc_info=error)
    return JSONResponse(WireError("internal_error", "the node's log has the cause").body(), 500)
