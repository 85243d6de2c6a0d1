"""Middleware for applications of aiohttp, which has a signature of its own. It is not imported here.

app = web.Application(middlewares=[aiohttp_middleware])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from time import monotonic_ns
from typing import Any, Final

from hearthnet.observability.middleware.request import begin, note_recorder, status_of
from hearthnet.observability.middleware.routes import KnownTemplates
from hearthnet.observability.tracing import detach

__all__ = ["aiohttp_middleware"]

Handler = Callable[[Any], Awaitable[Any]]

# The request that has a trace already: an application below may have this middleware, too.
_served: Final[ContextVar[Any]] = ContextVar("hearthnet_aiohttp_request", default=None)
_templates: Final = KnownTemplates()


async def aiohttp_middleware(request: Any, handler: Handler) -> Any:
    """Makes a trace of a request, as `ASGIMiddleware` does; it lasts until the handler has returned.

    A websocket is passed through: a connection is no request. What the handler raises leaves unchanged. A response that
    is raised, such as `web.HTTPNotFound`, is a response. A handler that is cancelled, because its client has left, is
    `cancelled`.
    """
    if _served.get() is request or request.headers.get("upgrade", "").lower() == "websocket":
        return await handler(request)
    parents, states = request.headers.getall("traceparent", []), request.headers.getall("tracestate", [])
    serving = begin(request.method, request.path, parents, states, _templates, joins=True)
    served = _served.set(request)
    problem: BaseException | None = None
    try:
        response = await handler(request)
        serving.status = status_of(getattr(response, "status", None))  # a handler may have forgotten its `return`
        return response
    except BaseException as error:
        status = getattr(error, "status", None)
        if hasattr(error, "status_code") and isinstance(status, int):  # of web.HTTPException: it is the response
            serving.status = status_of(status)
        else:
            problem = error
        raise
    finally:
        resource = getattr(getattr(request.match_info, "route", None), "resource", None)
        serving.route = getattr(resource, "canonical", None)
        serving.ended_ns = monotonic_ns()
        try:
            serving.end(problem, _templates)
        finally:
            detach()
            _served.reset(served)


aiohttp_middleware.__middleware_version__ = 1  # type: ignore[attr-defined]  # what aiohttp's decorator sets
note_recorder(aiohttp_middleware.__code__)
