"""FastAPI dependencies that decide who may use the page. `exposure` reads them by name.

Every program on this machine reaches the port, and browsers send cookies to every port of a host. So each request for
data carries a secret in a header, which a browser keeps for this origin alone: no cookie, nothing in a URL.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from hearthnet.errors import HearthNetError, StoreError, WireError
from hearthnet.observability.store.query.statement import QueryError, QueryLimitError
from hearthnet.transport.admission.refusals import count_refused
from hearthnet.transport.api.error_body import error_body, validation_failure
from hearthnet.transport.auth.access import is_loopback
from hearthnet.transport.page.source import OldStoreError, Page

__all__ = [
    "HEADER",
    "Holder",
    "PageRoute",
    "ThePage",
    "own_origin",
    "page_holder",
    "page_of",
    "page_schema",
    "page_visitor",
    "page_json",
]

HEADER: Final = "X-HearthNet-Page"
_HOW: Final = "type on its machine: hearthnet page"


class NotLocalError(WireError):
    """Raised for a request from another machine, or through a proxy, while the page is not shared."""

    def __init__(self) -> None:
        super().__init__("unauthorized", "this page is for the node's own machine, and not through a proxy")
        self.hint = "to use it from here for an hour, type on its machine: hearthnet page --share 1h"

    @property
    def status(self) -> int:
        """403: no secret would help."""
        return 403


async def page_of(request: Request) -> Page:
    """Returns the page of the application.

    Raises:
        WireError: raised as `not_found` when it has none.
    """
    page: Page | None = request.app.state.page
    if page is None:
        raise WireError("not_found", "this node has no page: it has no store")
    return page


ThePage = Annotated[Page, Depends(page_of)]


async def page_visitor(request: Request, page: ThePage) -> None:
    """Admits requests from this machine, and from elsewhere while the page is shared.

    Raises:
        NotLocalError: raised for all others.
    """
    if not is_loopback(request) and page.grants.shared_until_us() is None:
        count_refused("page", why="remote")
        raise NotLocalError


async def page_holder(request: Request, page: ThePage) -> str:
    """Admits requests with a valid secret; returns its hash.

    Raises:
        WireError: raised as `unauthorized` for all others.
    """
    holder = page.grants.holder(request.headers.get(HEADER, ""))
    if holder is None:
        count_refused("page", why="secret")
        raise unauthorized("this page is for the node's owner")
    return holder


Holder = Annotated[str, Depends(page_holder)]


async def page_schema(page: ThePage) -> None:
    """Admits requests while the store is of a version that the page reads.

    Raises:
        OldStoreError: raised when it is older.
    """
    if not page.fits():  # one `stat`: a thread would cost more
        await run_in_threadpool(page.check_schema)


def unauthorized(message: str) -> WireError:
    """Returns the error for a request without a valid secret or token."""
    error = WireError("unauthorized", f"{message}; {_HOW}")
    error.hint = "hearthnet page"
    return error


async def own_origin(request: Request) -> None:
    """Admits writes that a page of this origin sends: `Guard` has compared the origin, if there is one, with ours.

    Raises:
        WireError: raised for JSON of another content type, and for requests without an origin.
    """
    if "origin" not in request.headers:
        raise NotOurOriginError
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise WireError("bad_request", "the content type must be application/json")


class NotOurOriginError(WireError):
    """Raised for a write that no page of this node has sent."""

    def __init__(self) -> None:
        super().__init__("bad_request", "only the page itself may do this: the Origin header is missing")

    @property
    def status(self) -> int:
        """403, as for another origin."""
        return 403


def page_json(value: Any) -> Response:
    """Returns a JSON response; infinity and NaN, which JSON lacks, become null."""
    return Response(orjson.dumps(value, default=_plain), media_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError


class PageRoute(APIRoute):
    """A route whose errors have a hint where there is one, and whose queries may fail."""

    def get_route_handler(self) -> Any:
        """Returns the framework's handler, wrapped."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                failure = validation_failure(error)
            except WireError as error:
                failure = error
            except HearthNetError as error:
                failure = _wire_error(await _explained(request, error))
            body = {**error_body(failure), **({"hint": failure.hint} if failure.hint else {})}
            return JSONResponse(body, failure.status)

        return guarded


async def _explained(request: Request, error: HearthNetError) -> HearthNetError:
    """Returns why a query failed: an older store, copied over the one that was checked, lacks what was asked for."""
    if isinstance(error, StoreError) and not isinstance(error, OldStoreError):
        page: Page = request.app.state.page
        page.doubt()
        try:
            await run_in_threadpool(page.check_schema)
        except OldStoreError as old:
            return old
    return error


def _wire_error(error: HearthNetError) -> WireError:
    codes = (
        (QueryError, "bad_request"),
        (QueryLimitError, "timeout"),
        (OldStoreError, "not_implemented"),
        (StoreError, "partition"),
    )
    code = next((code for kind, code in codes if isinstance(error, kind)), "internal_error")
    made = WireError(code, error.message)
    made.hint = error.hint
    return made
