"""Asks OpenAI-compatible backends: one POST, answered by one document or by a stream of them.

Whatever goes wrong on the way becomes a `BackendError`. Leaving the `async with`, by a cancellation too, closes the
connection, and a closed connection is what makes a backend stop generating.
Reads events by itself because httpx's lines have no bound, and end at U+2028 and its like, which JSON may hold.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from hearthnet.config import LlmBackend
from hearthnet.observability.traces.traceparent import headers_for
from hearthnet.services.llm_errors import TOO_LONG, BackendError, error_of

if TYPE_CHECKING:
    import httpx

__all__ = ["BackendClient", "chat_url", "place_of", "read_document", "read_events", "usable_key"]

_CONNECT_TIMEOUT_S: Final = 2.0  # as the doctor's check asks; what is at home answers within milliseconds
_MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024  # a hundred times the longest answer of a model run at home
_MAX_LINE_BYTES: Final = 1024 * 1024  # a chunk holds a token or a few
_MAX_REFUSAL_BYTES: Final = 64 * 1024
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"
_BY_STATUS: Final = {
    401: "key",
    403: "key",
    404: "no_model",
    408: "timeout",
    413: "too_long",
    429: "busy",
    502: "not_ready",
    503: "not_ready",  # llama.cpp while it loads the model
    504: "not_ready",
}


def chat_url(url: str) -> str:
    """Returns where a backend takes chats; its `url` may end in `/v1` or not."""
    base = url.rstrip("/")
    return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"


def place_of(url: str) -> str:
    """Returns host and port of a URL: neither the user and password nor the query that may be in it."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:  # half an IPv6 address
        return ""


class BackendClient:
    """One pool of connections to all backends, made at the first request.

    Args:
        timeout_s: the longest wait for the answer, and within it for the next token; seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._pool: httpx.AsyncClient | None = None

    def _http(self) -> httpx.AsyncClient:
        import httpx

        if self._pool is None:
            timeout = httpx.Timeout(self._timeout_s, connect=_CONNECT_TIMEOUT_S)
            # trust_env: a proxy of the environment has no business with what is said at home
            self._pool = httpx.AsyncClient(timeout=timeout, trust_env=False)
        return self._pool

    async def aclose(self) -> None:
        """Closes all connections; a later request opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    @asynccontextmanager
    async def post(self, backend: LlmBackend, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """Gives the answer to a chat, its status 200 and its content not read yet.

        Raises:
            BackendError: raised when there is none, and for what goes wrong while the content is read.
        """
        import httpx

        try:
            async with self._http().stream(
                "POST", chat_url(backend.url), content=orjson.dumps(body), headers=_headers(backend)
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise await _refusal(response)
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            # The message of an error may hold a header, the key's too; its type tells enough.
            raise BackendError(_kind_of(error), type(error).__name__) from error


def _headers(backend: LlmBackend) -> dict[str, str]:
    # identity: what a proxy compresses it also holds back until there is enough of it
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers_for()}
    key = usable_key(backend)
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def usable_key(backend: LlmBackend) -> str | None:
    """Returns the key to send to a backend; None for one that is configured without.

    Raises:
        BackendError: raised as `key` when the variable that should hold it does not.
    """
    if backend.api_key_env is None:
        return None
    key = (backend.api_key() or "").strip()
    if not key or not key.isascii() or not key.isprintable():
        # Not even its name: some put the key itself there.
        raise BackendError("key", "the variable that api_key_env names holds no usable key")
    return key


def _kind_of(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return "unreachable"
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | UnicodeError):
        return "unreachable"
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    return "malformed" if isinstance(error, httpx.DecodingError) else "cut_short"


async def _refusal(response: httpx.Response) -> BackendError:
    """Returns the error that a status other than 200 stands for."""
    status = response.status_code
    try:
        document = orjson.loads(await _read(response, _MAX_REFUSAL_BYTES))
    except (orjson.JSONDecodeError, BackendError):  # no JSON, or too much of it: the status tells
        document = None
    told = error_of(document.get("error") if isinstance(document, dict) else None)
    reason = told.reason if told is not None else None
    kind = _BY_STATUS.get(status, "refused" if 400 <= status < 500 else "failed")
    if reason in TOO_LONG:
        kind = "too_long"
    return BackendError(kind, f"HTTP {status} {reason or ''}".rstrip(), status=status, reason=reason)


async def _read(response: httpx.Response, limit: int) -> bytes:
    content = bytearray()
    async for block in response.aiter_bytes():
        content += block
        if len(content) > limit:
            raise BackendError("malformed", f"more than {limit} bytes")
    return bytes(content)


async def read_document(response: httpx.Response) -> Any:
    """Returns the answer of a backend that does not stream.

    Raises:
        BackendError: raised when it is no JSON.
    """
    return _parse(await _read(response, _MAX_DOCUMENT_BYTES))


async def read_events(response: httpx.Response) -> AsyncGenerator[Any, None]:
    """Yields the documents of server-sent events up to `[DONE]`.

    Raises:
        BackendError: raised when one is no JSON, or the stream ends before `[DONE]`.
    """
    async with aclosing(_lines(response)) as lines:
        async for line in lines:
            if not line.startswith(_DATA):  # blank, a comment that keeps the connection, the event's name
                continue
            data = line.removeprefix(_DATA).strip()
            if data == _DONE:
                return
            yield _parse(data)
    raise BackendError("cut_short", "the stream ended without [DONE]")


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _MAX_LINE_BYTES:
            raise BackendError("malformed", f"a line of more than {_MAX_LINE_BYTES} bytes")
    yield rest


def _parse(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        # from None: that error carries the whole text
        raise BackendError("malformed", "not JSON") from None
