"""ASGI middleware: each HTTP request is a trace and is counted. Pure ASGI, for any framework and event loop.

Websockets and the lifespan are passed through: a connection is no request, and may last for days. What a handler of one
does can be traces of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic_ns
from typing import Any, Final

from hearthnet.observability.logging import get_logger
from hearthnet.observability.middleware.request import Request, begin, note_recorder, status_of
from hearthnet.observability.middleware.routes import KnownTemplates, asgi_route
from hearthnet.observability.tracing import detach

__all__ = ["ASGIMiddleware", "RouteOfScope"]

log = get_logger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
RouteOfScope = Callable[[Scope], str | None]

TRACE: Final = "hearthnet.trace"  # key of a scope that has a trace already
_PARENT: Final = b"traceparent"
_STATE: Final = b"tracestate"
# The last message of each kind that ends a response has this key false, or lacks it.
_MORE: Final = {
    "http.response.body": "more_body",
    "http.response.zerocopysend": "more_body",
    "http.response.pathsend": "more_body",
    "http.response.trailers": "more_trailers",
}


class ASGIMiddleware:
    """Makes a trace of each HTTP request that an application serves.

    The trace has the method and the template of the route as its name, such as `GET /users/{id}`, and as extras
    `http.request.method`, `http.route` and `http.response.status_code`. An exception is recorded, logged with its
    traceback, and raised again unchanged. A request that has a trace already, from a middleware further out, gets no
    second one.

    Args:
        app: the application.
        route: returns the template of a request's route after the application has found it, from its scope; None where
            there is none. Without this function those of Starlette, FastAPI and Litestar are found.
        joins_callers: whether a request with a valid `traceparent` continues that trace. False, for a public server:
            it has a trace of its own with a link to the caller's span.
        response_header: sends the trace's id in this header: of `traceparent` and `traceresponse` the value that W3C
            defines, of any other the id that `hearthnet trace` takes. None: no header.
    """

    def __init__(
        self,
        app: App,
        *,
        route: RouteOfScope | None = None,
        joins_callers: bool = True,
        response_header: str | None = None,
    ) -> None:
        self.app = app
        self._route = route
        self._joins = joins_callers
        self._header = response_header
        self._templates = KnownTemplates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http" or TRACE in scope:
            await self.app(scope, receive, send)
            return
        serving = _Serving(self._begin(scope), scope, receive, send, self._route, self._header)
        problem: BaseException | None = None
        try:
            await self.app(scope, serving.receive, serving.send)
        except BaseException as error:
            problem = error
            raise
        finally:
            serving.note_route()
            try:
                serving.request.end(problem, self._templates)
            finally:
                detach()

    def _begin(self, scope: Scope) -> Request:
        parents, states = [], []
        for name, value in scope.get("headers", ()):
            if name == _PARENT:
                parents.append(value.decode("latin-1"))
            elif name == _STATE:
                states.append(value.decode("latin-1"))
        request = begin(scope.get("method"), _path(scope), parents, states, self._templates, joins=self._joins)
        # In the server's own scope: frameworks write the route there, and middleware further out reads it.
        scope[TRACE] = request.trace
        return request


note_recorder(ASGIMiddleware.__call__.__code__)


def _path(scope: Scope) -> str:
    """Returns the path without the part at which the server has mounted the application."""
    path, root = scope["path"], scope.get("root_path", "")
    return str(path.removeprefix(root)) if root else str(path)


class _Serving:
    """A request on its way through the application: passes messages on, and notes what they tell."""

    __slots__ = ("_find", "_header", "_path", "_receive", "_scope", "_send", "request")

    def __init__(
        self,
        request: Request,
        scope: Scope,
        receive: Receive,
        send: Send,
        find: RouteOfScope | None,
        header: str | None,
    ) -> None:
        self.request = request
        self._scope = scope
        self._path = _path(scope)
        self._receive, self._send = receive, send
        self._find = find
        self._header = header

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.request.is_gone = True
        return message

    async def send(self, message: Message) -> None:
        kind = message.get("type")
        if kind == "http.response.start":
            self.request.status = status_of(message.get("status"))
            if self._header is not None:
                message = self._with_header(message, self._header)
        try:
            await self._send(message)
        except OSError:  # so servers tell that the client has left
            self.request.is_gone = True
            raise
        if kind in _MORE and not message.get(_MORE[kind]):
            self.request.ended_ns = monotonic_ns()

    def _with_header(self, message: Message, name: str) -> Message:
        pair = (name.lower().encode("latin-1"), self.request.header(name).encode())
        return {**message, "headers": [*message.get("headers", ()), pair]}

    def note_route(self) -> None:
        """Notes the route that the application has found. Never raises: values of parameters may be anything."""
        try:
            find = self._find
            self.request.route = asgi_route(self._scope, self._path) if find is None else find(self._scope)
        except Exception:
            log.exception("the route of a request is not known")
