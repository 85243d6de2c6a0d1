"""Answers that are given as bytes, without the framework: to what is refused before it is a request."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import orjson

from hearthnet.errors import WireError
from hearthnet.transport.guard import SAFE_HEADERS

__all__ = ["answer_bytes", "last_answer"]


def answer_bytes(error: WireError, headers: Iterable[tuple[bytes, bytes]], status: int | None = None) -> bytes:
    """Returns an answer with the error as its body; `status` where it is not that of the code."""
    body = orjson.dumps(error.body())
    found = HTTPStatus(status or error.status)
    lines = [
        b"HTTP/1.1 %d %b" % (found, found.phrase.encode()),
        *(b"%b: %b" % header for header in (*headers, *SAFE_HEADERS)),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
    ]
    return b"\r\n".join([*lines, b"", body])


def last_answer(error: WireError, headers: Iterable[tuple[bytes, bytes]] = (), status: int | None = None) -> bytes:
    """Returns an answer that says that the connection is closed after it."""
    return answer_bytes(error, (*headers, (b"connection", b"close")), status)
