"""What the node's routes take and give, for its people: the OpenAPI document, and a page of it that needs no internet.

The usual page of the framework loads its program from a content delivery network, which a home without internet has
not, and which would learn of every visit. Neither is for strangers: a list of all routes is where an attack begins.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse

from hearthnet.transport.access import SignedRoute, members_or_loopback
from hearthnet.transport.described import completed

__all__ = ["documentation"]

# Nothing of it runs or loads anything, whatever a description holds, and no page shows it within its own.
_POLICY: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{font:14px/1.4 ui-monospace,monospace}h2{margin:1.5rem 0 0;font-size:1rem}"
    "p,ul{margin:.25rem 0}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}"
)
_CODE: Final = re.compile("`([^`]+)`")

documentation = APIRouter(route_class=SignedRoute, dependencies=[Depends(members_or_loopback)], include_in_schema=False)


@documentation.get("/openapi.json")
def openapi(request: Request) -> JSONResponse:
    """The OpenAPI document of all routes."""
    return JSONResponse(completed(request.app.openapi()))


@documentation.get("/docs")
def page(request: Request) -> HTMLResponse:
    """The same as a page."""
    document = completed(request.app.openapi())
    routes = "".join(
        _route(method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    title = f"{escape(document['info']['title'])} {escape(document['info']['version'])}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    text = f'<h1>{title}</h1><p>All of it: <a href="openapi.json"><code>openapi.json</code></a></p>{routes}'
    return HTMLResponse(f'<!doctype html><html lang="en">{head}<style>{_STYLE}</style>{text}</html>', headers=_POLICY)


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(_parameter(parameter) for parameter in operation.get("parameters", ()))
    answers = ", ".join(escape(status) for status in operation["responses"])
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{_prose(operation.get('description', ''))}</p>"
        f"{f'<ul>{parameters}</ul>' if parameters else ''}<p>answers {answers}</p>"
    )


def _parameter(parameter: dict[str, Any]) -> str:
    needed = ", needed" if parameter.get("required") else ""
    text = _prose(parameter.get("description") or parameter.get("schema", {}).get("description") or "")
    return f"<li><code>{escape(parameter['name'])}</code> ({escape(parameter['in'])}{needed}) {text}</li>"


def _prose(text: str) -> str:
    """Returns a description as HTML: what stands in backticks is code, all else is text."""
    return _CODE.sub(r"<code>\1</code>", escape(text))
