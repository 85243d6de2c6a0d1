"""The client of one node. Asynchronous; programs without an event loop use `asyncio.run`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import orjson

from hearthnet.client.reading import MAX_RESPONSE_BYTES, Expected, is_stream, read_document, read_frames
from hearthnet.client.tls import pinned
from hearthnet.errors import HearthNetError, NodeUnreachableError, WireError
from hearthnet.identity.keys import KeyPair
from hearthnet.observability.records.ids import new_trace_id
from hearthnet.observability.traces.traceparent import TRACEPARENT, headers_for, spell
from hearthnet.transport.auth.signing import SIGNATURE, sign, trace_id_of

__all__ = ["Client", "call_headers"]

_CALL_PATH: Final = "/bus/v1/call"
_GET_VERSION: Final = "1.0"
_CONNECT_TIMEOUT_S: Final = 2.0
_GET_TRIES: Final = 3
_MAX_PORT: Final = 65_535
_MAX_WAIT_S: Final = 10.0  # limit on the `retry_after_ms` of a node
# A node refuses with these before it begins the call: it could not serve it now, and may soon.
_RETRYABLE: Final = frozenset({"rate_limited", "capacity_exceeded", "partition"})

Prepare = Callable[[], httpx.Request]  # signs the request anew for each try: a signature is valid once


class Client:
    """Calls one node in the name of a member.

    Used as `async with Client(…) as node`. Every response is verified: signed by `node_id`, and for this request; see
    `transport.auth.signing`.

    Args:
        url: of the node, such as `http://192.168.1.7:7080`.
        keys: keys of the calling member.
        community: community id.
        node_id: full id of the called node.
        certificate: PEM file with the certificate of an `https` node; no other one is trusted.
        timeout_s: limit on a call with all its tries, or on the wait for the next frame of a stream, seconds.

    Raises:
        HearthNetError: raised for a url that is not one of a node.
    """

    def __init__(
        self,
        url: str,
        keys: KeyPair,
        community: str,
        node_id: str,
        *,
        certificate: Path | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._keys = keys
        self._community = community
        self._node_id = node_id
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=_parse_url(url),
            headers={"Accept-Encoding": "identity"},  # the signature covers the bytes as sent
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
            verify=pinned(certificate),
            trust_env=False,  # proxies of the environment are not for nodes at home
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def call(
        self,
        capability: str,
        body: dict[str, Any],
        version: str = "1.0",
        *,
        request_id: str | None = None,
        tries: int = 1,
    ) -> Any:
        """Returns the result of a capability; a list of the frames of one that only streams.

        Args:
            capability: its name.
            body: `{"params": …, "input": …}`.
            version: the lowest acceptable version, `major.minor`.
            request_id: the trace id, by default a new one.
            tries: how often to try at most, while the node says when to retry. Use more than one only for capabilities
                that may be called twice: a node that says so has done nothing, but anyone on the way can say so too.

        Raises:
            WireError: raised when the call fails, cannot be put into JSON or headers (`bad_request`), or takes too long
                (`timeout`).
            NodeUnreachableError: raised when no node can be reached at that address.
            UntrustedResponseError: raised when the response is not proven to be the node's.
            HearthNetError: raised when the connection breaks.
        """
        prepare = self._request_factory(capability, version, body, request_id, "application/json")
        return await self._with_timeout(prepare, tries)

    async def stream(
        self, capability: str, body: dict[str, Any], version: str = "1.0", *, request_id: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yields the frames of a stream as they arrive, or the one result of a capability that does not stream.

        The frames are proven to be the node's only when the stream ends without an error.

        Raises:
            HearthNetError: raised as by `call`.
        """
        prepare = self._request_factory(capability, version, body, request_id, "text/event-stream")
        async with self._response(prepare()) as (response, expected):
            if not is_stream(response):
                async with asyncio.timeout(self._timeout_s):
                    document = await read_document(response, expected)
                yield document
                return
            async with aclosing(read_frames(response, expected)) as frames:  # type: ignore[type-var]  # it is a generator
                while (frame := await self._next_frame(frames)) is not None:
                    yield frame

    async def _next_frame(self, frames: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns the next frame, None after the last; httpx limits only the time between two reads."""
        async with asyncio.timeout(self._timeout_s):
            return await anext(frames, None)

    async def get(self, path: str, **parameters: Any) -> Any:
        """Returns the JSON of a route such as `/trace/recent`, by a signed GET; retries when the node says so.

        Raises:
            HearthNetError: raised as by `call`.
        """
        given = {name: value for name, value in parameters.items() if value is not None}

        def prepare() -> httpx.Request:
            request = self._http.build_request("GET", path, params=given)
            target = f"GET {request.url.raw_path.decode('ascii')}"
            request.headers.update(sign(self._keys, self._community, target, _GET_VERSION, None))
            return request

        return await self._with_timeout(prepare, _GET_TRIES)

    def _request_factory(
        self, capability: str, version: str, body: Any, request_id: str | None, accept: str
    ) -> Prepare:
        plain = {"Content-Type": "application/json", "Accept": accept}
        is_random = request_id is None
        given_id = request_id or new_trace_id()

        def prepare() -> httpx.Request:
            try:
                content = orjson.dumps(body)
                signed = call_headers(
                    self._keys, self._community, capability, version, body, given_id, is_random=is_random
                )
                return self._http.build_request("POST", _CALL_PATH, content=content, headers={**plain, **signed})
            except (TypeError, ValueError) as error:
                raise WireError("bad_request", f"the call cannot be sent: {error}") from error

        return prepare

    async def _with_timeout(self, prepare: Prepare, tries: int) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._with_retries(prepare, tries)
        except TimeoutError as error:
            raise self._timeout_error() from error

    async def _with_retries(self, prepare: Prepare, tries: int) -> Any:
        for left in reversed(range(tries)):
            try:
                return await self._send_once(prepare())
            except WireError as error:
                if not left or error.code not in _RETRYABLE or error.retry_after_ms is None:
                    raise
                await asyncio.sleep(min(error.retry_after_ms / 1_000, _MAX_WAIT_S))
        raise ValueError("tries must be at least 1")

    async def _send_once(self, request: httpx.Request) -> Any:
        async with self._response(request) as (response, expected):
            if is_stream(response):
                return [frame async for frame in read_frames(response, expected, MAX_RESPONSE_BYTES)]
            return await read_document(response, expected)

    @asynccontextmanager
    async def _response(self, request: httpx.Request) -> AsyncIterator[tuple[httpx.Response, Expected]]:
        """Sends a request and yields the response, its body unread; turns httpx errors into ours."""
        response = None
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._http.send(request, stream=True)
            yield response, Expected(self._node_id, request.headers[SIGNATURE])
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NodeUnreachableError(
                f"no node at {self._http.base_url}", hint="is it running, and is its certificate the given one?"
            ) from error
        except (httpx.TimeoutException, TimeoutError) as error:
            raise self._timeout_error() from error
        except httpx.HTTPError as error:
            hint = "check http:// vs. https://; otherwise see: hearthnet log"
            raise HearthNetError(f"the connection to the node broke: {error}", hint=hint) from error
        finally:
            if response is not None:
                await response.aclose()

    def _timeout_error(self) -> WireError:
        return WireError("timeout", f"no response within {self._timeout_s:g} s")


def _parse_url(url: str) -> httpx.URL:
    """Returns the parsed url of a node, checked; httpx would raise one of five errors later."""
    try:
        parsed = httpx.URL(url)
        is_usable = parsed.scheme in ("http", "https") and parsed.host != "" and 0 < (parsed.port or 80) <= _MAX_PORT
    except httpx.InvalidURL:
        is_usable = False
    if not is_usable:
        raise HearthNetError(f"{url!r} is not the url of a node", hint="such as http://192.168.1.7:7080")
    return parsed


def call_headers(
    keys: KeyPair,
    community: str,
    capability: str,
    version: str,
    body: Any,
    request_id: str,
    *,
    is_random: bool = False,
) -> dict[str, str]:
    """Returns the signed headers of a call, with `traceparent`: of the current trace, else made from the request id.

    It is omitted when the request id is not a trace id. Made from the request id it is marked as not sampled;
    `is_random` says whether the low 56 bits of that id are random.
    """
    signed = sign(keys, community, capability, version, body, request_id)
    if around := headers_for():
        return {**signed, **around}
    try:
        trace_id = trace_id_of(request_id) or ""
        parent = spell(trace_id, os.urandom(8).hex(), is_sampled=False, is_random=is_random)
    except ValueError:
        return signed
    return {**signed, TRACEPARENT: parent}
