"""The routes of the page: its files, and JSON over SQL. Each is thin and calls one function of `views`.

They are no calls of capabilities: nothing here makes a trace. Functions that query are plain, so that the framework
runs them in a thread; the files are in memory.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse, Response

from hearthnet.errors import WireError
from hearthnet.observability.store.query.child import ask_in_child
from hearthnet.transport.admission.refusals import count_refused
from hearthnet.transport.api import openapi, strict_json
from hearthnet.transport.auth.access import is_loopback
from hearthnet.transport.page import lists, shell, views
from hearthnet.transport.page.access import (
    Holder,
    PageRoute,
    ThePage,
    own_origin,
    page_holder,
    page_json,
    page_schema,
    page_visitor,
    unauthorized,
)
from hearthnet.transport.page.feed import Feed, Viewer
from hearthnet.transport.page.models import (
    CapabilitiesOut,
    CatalogueOut,
    ClaimIn,
    ClaimOut,
    DoctorOut,
    LogsOut,
    NowOut,
    OneRunOut,
    OneTraceOut,
    OtlpOut,
    RunsOut,
    SeriesOut,
    SqlIn,
    SqlOut,
    TracesOut,
)
from hearthnet.transport.page.source import READ_S
from hearthnet.transport.page.stream import PageStream

__all__ = ["page_data", "page_files"]

_MAX_MINUTES: Final = 60 * 24 * 31
_MAX_TEXT: Final = 2_000
_MAX_ROWS: Final = 1_000
_RUN_ID: Final = "^[0-9A-HJKMNP-TV-Z]{26}$"

page_files = APIRouter(route_class=PageRoute, dependencies=[Depends(page_visitor)], responses=openapi.PAGE_FILES)
page_data = APIRouter(
    prefix="/page/v1",
    route_class=PageRoute,
    dependencies=[Depends(page_visitor), Depends(page_holder), Depends(page_schema)],
    responses=openapi.PAGE,
)


@page_files.get("/", response_class=HTMLResponse)
async def page_shell() -> HTMLResponse:
    """The page, without any data: that needs the secret of a browser which has claimed a token."""
    return HTMLResponse(shell.shell(), headers={"Content-Security-Policy": shell.CSP})


async def strict_body(request: Request) -> None:
    """Admits a body that is strict JSON.

    Raises:
        WireError: raised as `bad_request` for all others.
    """
    strict_json.parse(await request.body())


# Beside the files: it is what a browser without a secret may call.
@page_files.post("/page/v1/claim", response_model=ClaimOut, dependencies=[Depends(own_origin), Depends(strict_body)])
def claim(wanted: ClaimIn, page: ThePage) -> Response:
    """Exchanges a token, which works once, for the secret that all other requests carry."""
    granted = page.grants.claim(wanted.token)
    if granted is None:
        count_refused("page", why="token")
        raise unauthorized("this link was used already, or is too old")
    return page_json(granted._asdict())


@page_files.get("/page/{version}/draw/{name}", response_class=Response, responses=openapi.PAGE_FILE)
async def drawing_file(version: str, name: str) -> Response:
    """A module or style sheet for drawing, in this version only."""
    return await page_file(version, f"draw/{name}")


@page_files.get("/page/{version}/{name}", response_class=Response, responses=openapi.PAGE_FILE)
async def page_file(version: str, name: str) -> Response:
    """A module, style sheet or picture of the page, in this version only."""
    found = shell.file_of(version, name)
    if found is None:
        raise WireError("not_found", "the page has no such file in this version: reload it")
    content, kind = found
    return Response(content, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


def overview_of(request: Request) -> views.Overview:
    """Returns the overview of the application's page, which its viewers share."""
    overview: views.Overview = request.app.state.overview
    return overview


@page_data.get("/now", response_model=NowOut)
def now(request: Request) -> Response:
    """Whether all is well, calls in flight, process health, and the store against its bounds."""
    found = overview_of(request).now()
    found["node"]["page_version"] = shell.page_version()
    return page_json(found)


@page_data.get("/series", response_model=SeriesOut)
def series(
    page: ThePage,
    minutes: Annotated[int, Query(ge=1, le=_MAX_MINUTES, description="up to now")] = 60,
    capability: Annotated[str | None, Query(max_length=64, description="its name; all, if missing")] = None,
) -> Response:
    """Calls, failures and durations by minute, or a longer step; with runs, and gaps where records were dropped."""
    return page_json(views.series(page, minutes, capability))


@page_data.get("/capabilities", response_model=CapabilitiesOut)
def capabilities(
    page: ThePage,
    minutes: Annotated[int | None, Query(ge=1, le=_MAX_MINUTES, description="up to now; missing: the ring")] = None,
) -> Response:
    """Calls, failures and durations of each capability."""
    return page_json(views.capabilities(page, minutes))


_SEQ = Annotated[int, PathParameter(ge=0, lt=2**63, description="the trace's seq")]


@page_data.get("/events", response_class=Response, responses=openapi.PAGE_EVENTS)
async def events(
    request: Request,
    holder: Holder,
    last_event_id: Annotated[str | None, Header(max_length=64, description="the last event's id, to resume")] = None,
) -> Response:
    """The news, as server-sent events: `hello`, then `traces`, `logs`, `skipped`, `now` and `reset`."""
    feed: Feed = request.app.state.feed
    viewer = Viewer(holder, is_local=is_loopback(request), cursor=last_event_id)
    feed.join(viewer)
    return PageStream(feed, viewer)


_Q = Annotated[str, Query(max_length=_MAX_TEXT, description="a query, as of `hearthnet search`")]
_N = Annotated[int, Query(ge=1, le=500, description="at most so many")]
_BEFORE = Annotated[str | None, Query(max_length=64, description="`next` of the page before")]


@page_data.get("/traces", response_model=TracesOut)
def traces(
    page: ThePage,
    q: _Q = "",
    order: Annotated[Literal["newest", "slowest"], Query(description="the first ones")] = "newest",
    n: _N = 100,
    before: _BEFORE = None,
) -> Response:
    """The traces that match a query."""
    return page_json(lists.found(page, "traces", q, order, n, before))


@page_data.get("/logs", response_model=LogsOut)
def logs(page: ThePage, q: _Q = "", n: _N = 100, before: _BEFORE = None) -> Response:
    """The log records that match a query, newest first."""
    return page_json(lists.found(page, "logs", q, "newest", n, before))


@page_data.get("/traces/{seq}", response_model=OneTraceOut)
def one_trace(page: ThePage, seq: _SEQ) -> Response:
    """A trace with its spans, its log records, the usual durations of its capability, and its run."""
    return page_json(views.trace(page, seq))


@page_data.get("/traces/{seq}/otlp", response_model=OtlpOut)
def trace_as_otlp(page: ThePage, seq: _SEQ) -> Response:
    """A trace as OTLP in JSON, to import elsewhere."""
    response = page_json(views.otlp(page, seq))
    response.headers["Content-Disposition"] = f'attachment; filename="trace-{seq}.json"'
    return response


@page_data.get("/runs", response_model=RunsOut)
def runs(page: ThePage) -> Response:
    """The newest runs with how they ended, and the figures of each version."""
    return page_json(views.runs(page))


@page_data.get("/runs/{run_id}", response_model=OneRunOut)
def one_run(page: ThePage, run_id: Annotated[str, PathParameter(pattern=_RUN_ID, description="a ULID")]) -> Response:
    """A run with the verdict of its autopsy and the evidence, the calls in flight at its end, and its health."""
    with page.turn():
        return page_json(views.one_run(page, run_id))


@page_data.get("/doctor", response_model=DoctorOut)
def doctor(page: ThePage) -> Response:
    """Runs all checks of the doctor; what changed since earlier reports."""
    return page_json(views.doctor(page))


@page_data.get("/questions", response_model=CatalogueOut)
def questions(page: ThePage) -> Response:
    """Questions with their SQL, and the tables and views with the meaning of their columns."""
    return page_json(views.catalogue(page))


@page_data.post("/sql", response_model=SqlOut, dependencies=[Depends(own_origin), Depends(strict_body)])
def run_sql(page: ThePage, wanted: SqlIn) -> Response:
    """Runs one query on the store, read-only, within five seconds; up to 1,000 rows."""
    with page.turn():
        return page_json(ask_in_child(page.path, wanted.sql, READ_S, _MAX_ROWS, page.children))
