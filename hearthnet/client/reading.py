"""Reads what a node answers: bounded, and believed only as far as it is signed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import orjson

from hearthnet.errors import HTTP_STATUS, HearthNetError, UntrustedAnswerError, WireError
from hearthnet.transport.auth.response_signing import is_signed_answer, is_signed_end
from hearthnet.transport.auth.signing import SENDER

__all__ = ["MAX_ANSWER_BYTES", "Asked", "is_stream", "read_document", "read_frames"]

MAX_ANSWER_BYTES: Final = 64_000_000  # of a document, or of one event; a node sends no more than fits its own memory
_END: Final = b"\n\n"  # of an event
_BROKE_OFF: Final = "the stream ended without its last frame"


class Asked:
    """Who was asked, and the signature of the request: an answer must name both."""

    __slots__ = ("node_id", "signature")

    def __init__(self, node_id: str, signature: str) -> None:
        self.node_id = node_id
        self.signature = signature


def is_stream(answer: httpx.Response) -> bool:
    """Tells whether an answer comes in frames; its status is signed as 200."""
    kind: str = answer.headers.get("content-type", "")
    return answer.status_code == 200 and kind.startswith("text/event-stream")


async def read_document(answer: httpx.Response, asked: Asked) -> Any:
    """Returns the JSON of an answer.

    Raises:
        WireError: raised for the error that the node answered with. It need not be signed: believing one that is made
            up costs a call, which whoever is on the way can have for less.
        UntrustedAnswerError: raised for another node's answer, or one without its signature.
        HearthNetError: raised when it is no JSON, or too large.
    """
    body = await _read(answer)
    is_signed = is_signed_answer(answer.headers, answer.status_code, body, asked.signature, asked.node_id)
    if not is_signed and not (answer.is_error and answer.headers.get(SENDER) == asked.node_id):
        raise _untrusted(answer.headers.get(SENDER))
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HearthNetError(f"what answered is no HearthNet node (HTTP {answer.status_code})") from error
    if answer.is_error:
        raise _wire_error(document)
    return document


async def read_frames(
    answer: httpx.Response, asked: Asked, most_bytes: int | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yields the frames of a stream as they come; that all of them are the node's is known at its end.

    Args:
        answer: whose body is to be read.
        asked: who, and what.
        most_bytes: of all events together, for who keeps them; each is bounded in any case.

    Raises:
        WireError: raised for an `error` event.
        UntrustedAnswerError: raised at the end of a stream that is not the node's, or was changed on its way.
        HearthNetError: raised when it ends before its last event, or is too large.
    """
    if answer.headers.get(SENDER) != asked.node_id:
        raise _untrusted(answer.headers.get(SENDER))
    sent = hashlib.sha256()
    count_bytes = 0
    async for event in _events(answer):
        count_bytes += len(event)
        if most_bytes is not None and count_bytes > most_bytes:
            raise _too_large()
        kind, data = _parsed(event)
        if kind == "frame":
            sent.update(event)
            yield data
            continue
        is_signed = is_signed_end(data, sent.hexdigest(), asked.signature, asked.node_id)
        if kind == "error":
            raise _wire_error(data)
        if not is_signed or "error" in data:
            raise _untrusted(asked.node_id)
        return
    raise HearthNetError(_BROKE_OFF, hint="did the node stop? see: hearthnet log")


async def _read(answer: httpx.Response) -> bytes:
    body = bytearray()
    # As it came: no node compresses, and a few bytes of somebody else's could unfold to any number.
    async for block in answer.aiter_raw():
        body += block
        if len(body) > MAX_ANSWER_BYTES:
            raise _too_large()
    return bytes(body)


async def _events(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yields each event with the empty line that ends it: U+2028 and its like end none, though libraries think so."""
    rest = bytearray()
    async for block in answer.aiter_raw():
        looked_at = max(0, len(rest) - 1)  # a long event comes in many blocks; each is looked at once
        rest += block
        while (end := rest.find(_END, looked_at)) >= 0:
            event = bytes(rest[: end + len(_END)])
            del rest[: len(event)]
            looked_at = 0
            yield event
        if len(rest) > MAX_ANSWER_BYTES:
            raise _too_large()


def _parsed(event: bytes) -> tuple[str, dict[str, Any]]:
    head, _, data = event.partition(b"\n")
    kind = head.removeprefix(b"event: ").decode("utf-8", "replace")
    try:
        parsed = orjson.loads(data.removeprefix(b"data: "))
    except orjson.JSONDecodeError:
        parsed = None
    if kind not in ("frame", "done", "error") or not isinstance(parsed, dict):
        raise HearthNetError("the stream is not one of a HearthNet node")
    return kind, parsed


def _wire_error(document: Any) -> WireError:
    code = document.get("error") if isinstance(document, dict) else None
    if not isinstance(code, str) or code not in HTTP_STATUS:
        return WireError("internal_error", f"the node answered: {document!r:.200}")
    wait_ms = document.get("retry_after_ms")
    message = str(document.get("message", ""))
    return WireError(code, message, retry_after_ms=wait_ms if isinstance(wait_ms, int) and wait_ms >= 0 else None)


def _untrusted(sender: str | None) -> UntrustedAnswerError:
    return UntrustedAnswerError(
        f"the answer is not proven to be from the node that was asked; it says {sender or 'nothing'}",
        hint="is it the right address, and the right node id? is the node older than this program?",
    )


def _too_large() -> HearthNetError:
    return HearthNetError(f"the answer is larger than {MAX_ANSWER_BYTES // 1_000_000} MB")
