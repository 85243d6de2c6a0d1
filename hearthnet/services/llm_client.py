"""Client of OpenAI-compatible backends: one POST, whose response is one document or a stream of them.

Every failure becomes a `BackendError`. Leaving the `async with`, also by a cancellation, closes the connection, which
makes a backend stop generating.
It reads events itself because httpx's lines are unbounded, and end at U+2028 and the like, which JSON may contain.
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

__all__ = ["BackendClient", "chat_url", "address_of", "is_plain_http", "read_document", "read_events", "usable_key"]

_CONNECT_TIMEOUT_S: Final = 2.0  # as in the doctor's check; a server at home responds within milliseconds
_MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024  # a hundred times the longest response of models run at home
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
    """Returns the URL of a backend's chat endpoint; its `url` may end in `/v1` or not."""
    base = url.rstrip("/")
    return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"


def is_plain_http(url: str) -> bool:
    """Returns whether a URL is of HTTP without TLS: its server shows no certificate."""
    return url[:5].lower() == "http:"


def address_of(url: str) -> str:
    """Returns host and port of a URL, without user, password or query."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:  # half an IPv6 address
        return ""


class BackendClient:
    """Connection pools for all backends: one for those over TLS, one for the others; made at the first request.

    Args:
        timeout_s: the longest wait for the response, and within it for the next token; seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._pools: dict[bool, httpx.AsyncClient] = {}

    def _http(self, url: str) -> httpx.AsyncClient:
        import httpx

        is_plain = is_plain_http(url)
        if is_plain not in self._pools:
            timeout = httpx.Timeout(self._timeout_s, connect=_CONNECT_TIMEOUT_S)
            # verify: the certificates of all authorities take 25 ms of the event loop, and plain HTTP has none
            # trust_env: a proxy from the environment must not see conversations
            self._pools[is_plain] = httpx.AsyncClient(verify=not is_plain, timeout=timeout, trust_env=False)
        return self._pools[is_plain]

    async def aclose(self) -> None:
        """Closes all connections; a later request opens new ones."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    @asynccontextmanager
    async def post(self, backend: LlmBackend, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """Yields the response to a chat, with status 200 and its content not read yet.

        Raises:
            BackendError: raised when there is no such response, or when reading its content fails.
        """
        import httpx

        try:
            url = chat_url(backend.url)
            async with self._http(url).stream(
                "POST", url, content=orjson.dumps(body), headers=_headers(backend)
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise await _refusal(response)
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            # Only its type: an error's message may contain a header, and so the key.
            raise BackendError(_kind_of(error), type(error).__name__) from error


def _headers(backend: LlmBackend) -> dict[str, str]:
    # identity: a proxy that compresses also buffers
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers_for()}
    key = usable_key(backend)
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def usable_key(backend: LlmBackend) -> str | None:
    """Returns the key to send to a backend; None if none is configured.

    Raises:
        BackendError: raised as `key` when the variable has no usable key.
    """
    if backend.api_key_env is None:
        return None
    key = (backend.api_key() or "").strip()
    if not key or not key.isascii() or not key.isprintable():
        # Its name is not shown: some users put the key itself there.
        raise BackendError("key", "the variable named by api_key_env has no usable key")
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
    """Returns the error for a status other than 200."""
    status = response.status_code
    try:
        document = orjson.loads(await _read(response, _MAX_REFUSAL_BYTES))
    except (orjson.JSONDecodeError, BackendError):  # not JSON, or too long: only the status counts
        document = None
    reported = error_of(document.get("error") if isinstance(document, dict) else None)
    reason = reported.reason if reported is not None else None
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
    """Returns the document of a response that is not streamed.

    Raises:
        BackendError: raised when it is not JSON.
    """
    return _parse(await _read(response, _MAX_DOCUMENT_BYTES))


async def read_events(response: httpx.Response) -> AsyncGenerator[Any, None]:
    """Yields the documents of server-sent events up to `[DONE]`.

    Raises:
        BackendError: raised when one is not JSON, or the stream ends before `[DONE]`.
    """
    async with aclosing(_lines(response)) as lines:
        async for line in lines:
            if not line.startswith(_DATA):  # blank, a keep-alive comment, an event name
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
        # from None: that error contains the whole text
        raise BackendError("malformed", "not JSON") from None
