"""Reads a node's responses: limits their size and verifies their signatures."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import orjson

from hearthnet.errors import HTTP_STATUS, HearthNetError, UntrustedResponseError, WireError
from hearthnet.transport.auth.signing import SENDER, is_signed_end, is_signed_response

__all__ = ["MAX_RESPONSE_BYTES", "Expected", "is_stream", "read_document", "read_frames"]

MAX_RESPONSE_BYTES: Final = (
    64_000_000  # limit on a document or one event; a node sends no more than fits its own memory
)
_END: Final = b"\n\n"  # end of an event
_BROKE_OFF: Final = "the stream ended without its last frame"


class Expected:
    """The node and the signature of the request that a response must name."""

    __slots__ = ("node_id", "signature")

    def __init__(self, node_id: str, signature: str) -> None:
        self.node_id = node_id
        self.signature = signature


def is_stream(response: httpx.Response) -> bool:
    """Returns True for a response that consists of frames; the signature covers it with status 200."""
    kind: str = response.headers.get("content-type", "")
    return response.status_code == 200 and kind.startswith("text/event-stream")


async def read_document(response: httpx.Response, expected: Expected) -> Any:
    """Returns the JSON of a response.

    Raises:
        WireError: raised for the node's error. It need not be signed: a forged one fails the call, which anyone on the
            way can do with less effort.
        UntrustedResponseError: raised for another node's response, or one without its signature.
        HearthNetError: raised when it is not JSON, or too large.
    """
    body = await _read(response)
    is_signed = is_signed_response(response.headers, response.status_code, body, expected.signature, expected.node_id)
    if not is_signed and not (response.is_error and response.headers.get(SENDER) == expected.node_id):
        raise _untrusted(response.headers.get(SENDER))
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HearthNetError(f"the server is not a HearthNet node (HTTP {response.status_code})") from error
    if response.is_error:
        raise _wire_error(document)
    return document


async def read_frames(
    response: httpx.Response, expected: Expected, max_bytes: int | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yields the frames of a stream as they arrive; only its end proves that all are the node's.

    Args:
        response: with its body unread.
        expected: the node and request that the stream must name.
        max_bytes: limit on all events together, for callers that keep them; each event has a limit in any case.

    Raises:
        WireError: raised for an `error` event.
        UntrustedResponseError: raised at the end of a stream that is not the node's, or was changed on its way.
        HearthNetError: raised when the stream ends before its last event, or is too large.
    """
    if response.headers.get(SENDER) != expected.node_id:
        raise _untrusted(response.headers.get(SENDER))
    sent = hashlib.sha256()
    count_bytes = 0
    async for event in _events(response):
        count_bytes += len(event)
        if max_bytes is not None and count_bytes > max_bytes:
            raise _too_large()
        kind, data = _parse_event(event)
        if kind == "frame":
            sent.update(event)
            yield data
            continue
        is_signed = is_signed_end(data, sent.hexdigest(), expected.signature, expected.node_id)
        if kind == "error":
            raise _wire_error(data)
        if not is_signed or "error" in data:
            raise _untrusted(expected.node_id)
        return
    raise HearthNetError(_BROKE_OFF, hint="did the node stop? see: hearthnet log")


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    # Undecoded: nodes do not compress, and a few bytes from another server could expand without limit.
    async for block in response.aiter_raw():
        body += block
        if len(body) > MAX_RESPONSE_BYTES:
            raise _too_large()
    return bytes(body)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yields each event with the empty line that ends it; unlike libraries, does not split at U+2028 and its like."""
    rest = bytearray()
    async for block in response.aiter_raw():
        searched = max(0, len(rest) - 1)  # a long event arrives in many blocks; each is searched once
        rest += block
        while (end := rest.find(_END, searched)) >= 0:
            event = bytes(rest[: end + len(_END)])
            del rest[: len(event)]
            searched = 0
            yield event
        if len(rest) > MAX_RESPONSE_BYTES:
            raise _too_large()


def _parse_event(event: bytes) -> tuple[str, dict[str, Any]]:
    head, _, data = event.partition(b"\n")
    kind = head.removeprefix(b"event: ").decode("utf-8", "replace")
    try:
        parsed = orjson.loads(data.removeprefix(b"data: "))
    except orjson.JSONDecodeError:
        parsed = None
    if kind not in ("frame", "done", "error") or not isinstance(parsed, dict):
        raise HearthNetError("the stream is not from a HearthNet node")
    return kind, parsed


def _wire_error(document: Any) -> WireError:
    code = document.get("error") if isinstance(document, dict) else None
    if not isinstance(code, str) or code not in HTTP_STATUS:
        return WireError("internal_error", f"the node sent an unknown error: {document!r:.200}")
    wait_ms = document.get("retry_after_ms")
    message = str(document.get("message", ""))
    return WireError(code, message, retry_after_ms=wait_ms if isinstance(wait_ms, int) and wait_ms >= 0 else None)


def _untrusted(sender: str | None) -> UntrustedResponseError:
    return UntrustedResponseError(
        f"the response is not proven to be from the called node; it names {sender or 'none'}",
        hint="check the address and the node id; is the node older than this program?",
    )


def _too_large() -> HearthNetError:
    return HearthNetError(f"the response is larger than {MAX_RESPONSE_BYTES // 1_000_000} MB")
