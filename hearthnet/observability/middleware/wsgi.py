"""WSGI middleware: each request is a trace and is counted. For Flask, Bottle, Django and any other WSGI application.

A response is iterated by the server, in the thread and context of its call. The trace is current while the
application's code runs: in the call, in each step of the iteration, in `close`. In between the server's own code has
the context that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from hearthnet.observability.logging import get_logger
from hearthnet.observability.middleware.request import Request, begin, note_recorder
from hearthnet.observability.middleware.routes import KnownTemplates, wsgi_route
from hearthnet.observability.traces.generators import inside, swap_in

if TYPE_CHECKING:
    from hearthnet.observability.traces.generators import Inside

__all__ = ["RouteOfEnviron", "WSGIMiddleware"]

log = get_logger(__name__)

Environ = dict[str, Any]  # no other mapping, by PEP 3333; so applications are declared
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
RouteOfEnviron = Callable[[Environ], str | None]

TRACE: Final = "hearthnet.trace"  # key of an environ that has a trace already
_STATUS_CHARS: Final = 3


class WSGIMiddleware:
    """Makes a trace of each request that an application serves.

    Names, extras, exceptions and nesting are as those of `ASGIMiddleware`. A list or tuple of bytes, and a file for the
    server's `wsgi.file_wrapper`, are returned as they are, and the trace ends with the call; any other response ends it
    with its `close`. One that is closed before its end was `cancelled`.

    Args:
        app: the application.
        route: returns the template of a request's route after the application has found it, from its environ; None
            where there is none. Without this function those of Flask and Bottle are found.
        joins_callers: as of `ASGIMiddleware`.
        response_header: as of `ASGIMiddleware`.
    """

    def __init__(
        self,
        app: App,
        *,
        route: RouteOfEnviron | None = None,
        joins_callers: bool = True,
        response_header: str | None = None,
    ) -> None:
        self.app = app
        self._route = wsgi_route if route is None else route
        self._joins = joins_callers
        self._header = response_header
        self._templates = KnownTemplates()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serves one request."""
        if TRACE in environ:
            return self.app(environ, start_response)
        outside = inside()
        swap_in((None, outside[1]))
        serving = _Serving(self._begin(environ), environ, start_response, self)
        try:
            response = self.app(environ, serving.start_response)
        except BaseException as error:
            serving.end(error)
            raise
        finally:
            serving.inside = swap_in(outside)
        return serving.passed_on(response)

    def _begin(self, environ: Environ) -> Request:
        parent, state = environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE")
        parents, states = [] if parent is None else [parent], [] if state is None else [state]
        path = environ.get("PATH_INFO", "")
        request = begin(environ.get("REQUEST_METHOD"), path, parents, states, self._templates, joins=self._joins)
        environ[TRACE] = request.trace
        return request

    def note_route(self, request: Request, environ: Environ) -> None:
        """Notes the route that the application has found. Never raises: the environ may have anything in it."""
        try:
            request.route = request.route or self._route(environ)
        except Exception:
            log.exception("the route of a request is not known")

    def finish(self, request: Request, environ: Environ, error: BaseException | None) -> None:
        """Ends a request."""
        self.note_route(request, environ)
        request.end(error, self._templates)

    @property
    def response_header(self) -> str | None:
        """The header with the trace's id, or None."""
        return self._header


note_recorder(WSGIMiddleware.__call__.__code__)


class _Serving:
    """A request on its way through the application.

    Attributes:
        inside: scope and fields of the application's code, while that does not run.
    """

    __slots__ = ("_environ", "_is_over", "_middleware", "_missing", "_start_response", "inside", "request")

    inside: Inside

    def __init__(
        self, request: Request, environ: Environ, start_response: StartResponse, middleware: WSGIMiddleware
    ) -> None:
        self.request = request
        self._environ = environ
        self._start_response = start_response
        self._middleware = middleware
        self._is_over = False
        self._missing: int | None = None

    def start_response(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        """Notes the status; called again with an exception, the server decides whether that is possible."""
        self._middleware.note_route(self.request, self._environ)  # Flask takes it away at the end of the call
        with suppress(TypeError, ValueError, AttributeError):  # the server reports what the application did wrong
            self.request.status = int(status[:_STATUS_CHARS])
            self._missing = _length_in(headers)
        if (name := self._middleware.response_header) is not None:
            headers = [*headers, (name, self.request.header(name))]
        return self._start_response(status, headers, *exc_info)

    def passed_on(self, response: Iterable[bytes]) -> Iterable[bytes]:
        """Returns the response, in a form that ends the trace where it is not there as a whole."""
        file_wrapper = self._environ.get("wsgi.file_wrapper")
        is_file = isinstance(file_wrapper, type) and isinstance(response, file_wrapper)
        if is_file or type(response) in (list, tuple):  # the server sees from its type how it can be sent
            self.note_end()
            self.end(None)
            return response
        return (_SizedBody if hasattr(response, "__len__") else _Body)(response, self)

    def note_part(self, part: bytes) -> None:
        """Notes a part of the response; with the last byte of its content length it is complete."""
        if self._missing is not None:
            with suppress(TypeError):  # no bytes: the server reports it
                self._missing -= len(part)
            if self._missing <= 0:
                self.note_end()

    def note_end(self) -> None:
        """Notes that the response is complete."""
        self.request.ended_ns = monotonic_ns()

    def end(self, error: BaseException | None) -> None:
        """Ends the trace, once. One that is not complete has been left by its client."""
        if not self._is_over:
            self._is_over = True
            self.request.is_gone = error is None
            self._middleware.finish(self.request, self._environ, error)


def _length_in(headers: list[tuple[str, str]]) -> int | None:
    return next((int(value) for name, value in headers if name.lower() == "content-length"), None)


class _Body:
    """A response that the server iterates and closes."""

    def __init__(self, response: Iterable[bytes], serving: _Serving) -> None:
        self._response = response
        self._serving = serving
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        serving = self._serving
        outside = swap_in(serving.inside)
        try:
            if self._iterator is None:
                self._iterator = iter(self._response)
            part = next(self._iterator)
            serving.note_part(part)
            return part
        except StopIteration:
            serving.note_end()
            raise
        except BaseException as error:
            serving.end(error)
            raise
        finally:
            serving.inside = swap_in(outside)

    def close(self) -> None:
        """Closes the application's response and ends the trace."""
        serving = self._serving
        outside = swap_in(serving.inside)
        if self._iterator is None:
            serving.note_end()  # the response to HEAD, or one without a body
        try:
            if (close := getattr(self._response, "close", None)) is not None:
                close()
        except BaseException as error:
            serving.end(error)
            raise
        finally:
            serving.end(None)
            swap_in(outside)

    def __del__(self) -> None:
        self._serving.end(None)  # a server that does not call `close`


class _SizedBody(_Body):
    """A response of which the server can tell how many parts it has: of one part it knows the length."""

    def __len__(self) -> int:
        return len(self._response)  # type: ignore[arg-type]  # it has a length
