"""The OpenAPI document: the errors that each route may return, and the headers and body of a signed call.

It lists every possible status, so that clients need not guess and a fuzzer can report any other one. So each status
is described here once; a route names those that are its own.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from hearthnet.transport.admission.gate import CALL_PATH
from hearthnet.transport.api.models import ErrorOut, ReadyOut
from hearthnet.transport.auth.access import SignedRoute, members_or_loopback
from hearthnet.transport.auth.signing import CAPABILITY, COMMUNITY, REQUEST_ID, SENDER, SIGNATURE, TIMESTAMP, VERSION

__all__ = [
    "CALL",
    "CONTROL",
    "METRICS",
    "OPEN",
    "PAGE",
    "PAGE_EVENTS",
    "PAGE_FILE",
    "PAGE_FILES",
    "READY",
    "SIGNED_CALL",
    "STATUSES",
    "TELEMETRY",
    "openapi",
]

Responses = dict[int | str, dict[str, Any]]

_MEANS: Final[dict[int, str]] = {
    400: "bad_request, schema_mismatch: the request breaks a rule that the message names",
    401: "invalid_signature, unauthorized: not signed, a reused signature, not a member, not from this machine, or"
    " without the page's secret",
    403: "revoked: the node was removed from the community; bad_request, unauthorized: the page has another origin, or"
    " is used from elsewhere",
    404: "not_found: nothing of that name exists here",
    405: "bad_request: the path has another method",
    408: "timeout: the capability or the query took too long, or the request took too long to arrive",
    410: "expired: signed over a minute ago or ahead, or a clock is wrong",
    413: "bad_request: the body or its headers are larger than the limit",
    415: "bad_request: the content type is not application/json",
    421: "bad_request: the Host names another machine",
    429: "rate_limited, capacity_exceeded: too many requests at present; retry after `retry_after_ms`",
    500: "internal_error: the node failed; its log has the cause",
    501: "not_implemented: the capability does not do that; the page does not read a store of an older version",
    503: "partition: the node is stopping, or something it needs is unavailable",
}
STATUSES: Final = tuple(_MEANS)
# What admission control may return for any request, on every route.
_ADMISSION: Final = (400, 403, 405, 408, 413, 421, 429, 500, 503)


def _errors(*own: int) -> Responses:
    """Returns the error responses of a route: those of admission control, and its own."""
    return {status: {"model": ErrorOut, "description": _MEANS[status]} for status in sorted({*_ADMISSION, *own})}


def _header(description: str, *, required: bool = True, **schema: Any) -> dict[str, Any]:
    return {"description": description, "required": required, "schema": {"type": "string", **schema}}


_MEMBERS_PATH: Final = "/trace"
_PAGE_PATH: Final = "/page/v1"
_CLAIM_PATH: Final = "/page/v1/claim"
_PAGE_SECRET: Final = {
    "name": "X-HearthNet-Page",
    "in": "header",
    "required": True,
    "description": "the secret that `POST /page/v1/claim` has given this browser",
    "schema": {"type": "string", "minLength": 43, "maxLength": 43},
}
_NODE_ID: Final = r"^ed25519:[A-Za-z0-9_-]{43}$"
_SIGNATURE: Final = r"^ed25519:[A-Za-z0-9_-]{86}$"
_ULID: Final = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"
_SENDER: Final = {SENDER: _header("the node that responds, full id", pattern=_NODE_ID)}
_TRACE: Final = {REQUEST_ID: _header("the call's trace id, a ULID", pattern=_ULID)}
# On every response to a verified request; docs/reference.md says what it covers.
_PROOF: Final = {
    TIMESTAMP: _header("when the response to a verified request was signed", required=False),
    SIGNATURE: _header("the node's signature of that response", required=False, pattern=_SIGNATURE),
}

OPEN: Final = _errors(401)
TELEMETRY: Final = _errors(401, 404, 410)
CONTROL: Final = _errors(401, 404, 415)
_TEXT: Final = {"schema": {"type": "string"}}
_FILE: Final = {"schema": {"type": "string"}}
PAGE_FILES: Final = _errors(401, 404, 415)
PAGE_FILE: Final[Responses] = {200: {"content": {"text/javascript": _FILE, "text/css": _FILE, "image/svg+xml": _FILE}}}
PAGE: Final = _errors(401, 404, 415, 501)
METRICS: Final[Responses] = {200: {"content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}}}
READY: Final[Responses] = {503: {"model": ReadyOut | ErrorOut, "description": f"no capability yet; {_MEANS[503]}"}}
# One event of a stream, as a client of server-sent events sees it.
_EVENT: Final = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["frame", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
PAGE_EVENTS: Final[Responses] = {
    200: {
        "description": "`hello`, then `traces`, `logs`, `skipped`, `now` and `reset` as they come.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
CALL: Final[Responses] = {
    200: {
        "description": "The capability's result: JSON, or `frame` events that end with one `done` or `error`.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": _EVENT},
        },
    },
    **_errors(401, 404, 410, 415, 501),
}


def _signed(name: str, description: str, pattern: str, example: str, longest: int = 256) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": {"type": "string", "pattern": pattern, "maxLength": longest},
        "example": example,
    }


_AN_ID: Final = "ed25519:" + 43 * "A"
# The signature covers the canonical JSON of all others and the body.
SIGNED_CALL: Final[dict[str, Any]] = {
    "parameters": [
        _signed(CAPABILITY, "the capability", r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$", "experimental.echo", 64),
        _signed(VERSION, "the lowest acceptable version, X.Y", r"^[0-9]{1,4}\.[0-9]{1,4}$", "1.0"),
        _signed(REQUEST_ID, "the trace id: a ULID, or 32 hexadecimal digits", _ULID, "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"),
        _signed(SENDER, "the caller's full node id", _NODE_ID, _AN_ID),
        _signed(COMMUNITY, "the community of both nodes", _NODE_ID, _AN_ID),
        _signed(
            TIMESTAMP,
            "when it was signed: RFC 3339 UTC with Z, within 60 s of the node's clock",
            r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z$",
            "2030-01-01T00:00:00.000Z",
        ),
        _signed(
            SIGNATURE,
            "Ed25519 over the canonical JSON of capability, version, request_id, from, community, timestamp, body",
            _SIGNATURE,
            "ed25519:" + 86 * "A",
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input"],
                    "additionalProperties": False,
                    "properties": {
                        "params": {"type": "object", "default": {}},
                        "input": {"description": "what the capability's own schema requires"},
                    },
                },
                "example": {"params": {}, "input": {"text": "hello"}},
            }
        },
    },
}


def _signed_get() -> list[dict[str, Any]]:
    """Returns the headers of a GET that a remote member signs: those of a call, for another target."""
    made = deepcopy(SIGNED_CALL["parameters"])
    made[0] |= {
        "description": "`GET <path?query>` as it is sent; the signed body is null",
        "schema": {"type": "string", "pattern": "^GET /", "maxLength": 1_024},
        "example": "GET /trace/recent?n=10",
    }
    return [{**parameter, "required": False} for parameter in made]


# Not for everybody: a list of all routes helps an attacker.
openapi = APIRouter(route_class=SignedRoute, dependencies=[Depends(members_or_loopback)], include_in_schema=False)


@openapi.get("/openapi.json")
def document(request: Request) -> JSONResponse:
    """The OpenAPI document of all routes."""
    return JSONResponse(_completed(request.app.openapi()))


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    """Returns the framework's OpenAPI document, corrected.

    The framework documents a 422 with a body of its own, where the node returns 400 with the wire's; and it does not
    know the headers that every response has.
    """
    made = deepcopy(document)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            headers = {**_SENDER, **(_TRACE if path == CALL_PATH else {})}
            if path == CALL_PATH or path.startswith(_MEMBERS_PATH):
                headers |= _PROOF
            if path.startswith(_PAGE_PATH) and path != _CLAIM_PATH:
                operation.setdefault("parameters", []).append(_PAGE_SECRET)
            if path.startswith(_MEMBERS_PATH):
                operation.setdefault("parameters", []).extend(_signed_get())
            for response in operation["responses"].values():
                response["headers"] = headers
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)
    return made
