"""The client of one node. Asynchronous, as nodes are; a program without a loop has `asyncio.run`."""

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
from ulid import ULID

from hearthnet.client.reading import MAX_ANSWER_BYTES, Asked, is_stream, read_document, read_frames
from hearthnet.client.tls import pinned
from hearthnet.errors import HearthNetError, NodeUnreachableError, WireError
from hearthnet.identity.keys import KeyPair
from hearthnet.observability.traces.traceparent import TRACEPARENT, headers_for, spell
from hearthnet.transport.auth.signing import SIGNATURE, sign, trace_id_of

__all__ = ["Client", "call_headers"]

_CALL_PATH: Final = "/bus/v1/call"
_GET_VERSION: Final = "1.0"
_CONNECT_TIMEOUT_S: Final = 2.0
_GET_TRIES: Final = 3
_MAX_PORT: Final = 65_535
_MAX_WAIT_S: Final = 10.0  # what a node asks for, and no node may ask for more
# A node answers so before it has begun: it was not able to, and will be.
_PUT_OFF: Final = frozenset({"rate_limited", "capacity_exceeded", "partition"})

Prepare = Callable[[], httpx.Request]  # signs a request anew: a signature is good once


class Client:
    """Calls one node in the name of a member.

    Used as `async with Client(…) as node`. Every answer is checked to be from `node_id` and to this request; see
    `transport.answer_signing`.

    Args:
        url: of the node, such as `http://192.168.1.7:7080`.
        keys: of the member that calls.
        community: its id.
        node_id: full id of the node that is called.
        certificate: PEM file that an `https` node is known by; none else is trusted.
        timeout_s: how long a call, all its tries together, or the next frame of a stream may take, seconds.

    Raises:
        HearthNetError: raised when the url is none of a node.
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
            base_url=_checked(url),
            headers={"Accept-Encoding": "identity"},  # what is signed is what is sent
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S)),
            verify=pinned(certificate),
            trust_env=False,  # a proxy of the environment is not for what is at home
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
        """Returns what a capability answers; of one that answers in frames alone, the list of them.

        Args:
            capability: its name.
            body: `{"params": …, "input": …}`.
            version: `major.minor` at least.
            request_id: the trace to call under, by default a fresh one.
            tries: how often at most, where the node says when to come back. More than one is for capabilities that may
                as well be called twice: a node that says so has done nothing, but whoever is on the way may say it too.

        Raises:
            WireError: raised when the call fails, cannot be put into JSON or headers (`bad_request`), or its time is up
                (`timeout`).
            NodeUnreachableError: raised when nothing answers at that address.
            UntrustedAnswerError: raised when the answer is not proven to be the node's.
            HearthNetError: raised when the connection breaks.
        """
        given_id = request_id or str(ULID())
        prepare = self._preparing(capability, version, body, given_id, "application/json")
        return await self._within_time(prepare, tries)

    async def stream(
        self, capability: str, body: dict[str, Any], version: str = "1.0", *, request_id: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yields the frames of an answer as they come, or the answer itself of a capability that has none.

        What was yielded is proven to be the node's when the stream ends without an error, not before.

        Raises:
            HearthNetError: raised as `call` does.
        """
        prepare = self._preparing(capability, version, body, request_id or str(ULID()), "text/event-stream")
        async with self._answer(prepare()) as (answer, asked):
            if not is_stream(answer):
                async with asyncio.timeout(self._timeout_s):
                    document = await read_document(answer, asked)
                yield document
                return
            async with aclosing(read_frames(answer, asked)) as frames:  # type: ignore[type-var]  # it is a generator
                while (frame := await self._next(frames)) is not None:
                    yield frame

    async def _next(self, frames: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns the next frame, None after the last; httpx only limits how long no byte at all may come."""
        async with asyncio.timeout(self._timeout_s):
            return await anext(frames, None)

    async def get(self, path: str, **parameters: Any) -> Any:
        """Returns the JSON that a route such as `/trace/recent` answers to a signed GET; put off, it is asked again.

        Raises:
            HearthNetError: raised as `call` does.
        """
        given = {name: value for name, value in parameters.items() if value is not None}

        def prepare() -> httpx.Request:
            request = self._http.build_request("GET", path, params=given)
            target = f"GET {request.url.raw_path.decode('ascii')}"
            request.headers.update(sign(self._keys, self._community, target, _GET_VERSION, None))
            return request

        return await self._within_time(prepare, _GET_TRIES)

    def _preparing(self, capability: str, version: str, body: Any, request_id: str, accept: str) -> Prepare:
        plain = {"Content-Type": "application/json", "Accept": accept}

        def prepare() -> httpx.Request:
            try:
                content = orjson.dumps(body)
                signed = call_headers(self._keys, self._community, capability, version, body, request_id)
                return self._http.build_request("POST", _CALL_PATH, content=content, headers={**plain, **signed})
            except (TypeError, ValueError) as error:
                raise WireError("bad_request", f"this cannot be sent as a call: {error}") from error

        return prepare

    async def _within_time(self, prepare: Prepare, tries: int) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._tried(prepare, tries)
        except TimeoutError as error:
            raise self._late() from error

    async def _tried(self, prepare: Prepare, tries: int) -> Any:
        for left in reversed(range(tries)):
            try:
                return await self._once(prepare())
            except WireError as error:
                if not left or error.code not in _PUT_OFF or error.retry_after_ms is None:
                    raise
                await asyncio.sleep(min(error.retry_after_ms / 1_000, _MAX_WAIT_S))
        raise ValueError("a call takes one try at least")

    async def _once(self, request: httpx.Request) -> Any:
        async with self._answer(request) as (answer, asked):
            if is_stream(answer):
                return [frame async for frame in read_frames(answer, asked, MAX_ANSWER_BYTES)]
            return await read_document(answer, asked)

    @asynccontextmanager
    async def _answer(self, request: httpx.Request) -> AsyncIterator[tuple[httpx.Response, Asked]]:
        """Gives an answer whose body is still to be read; what httpx raises becomes an error of ours."""
        answer = None
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._http.send(request, stream=True)
            yield answer, Asked(self._node_id, request.headers[SIGNATURE])
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NodeUnreachableError(
                f"no node answers at {self._http.base_url}", hint="is it running, and is its certificate the one given?"
            ) from error
        except (httpx.TimeoutException, TimeoutError) as error:
            raise self._late() from error
        except httpx.HTTPError as error:
            hint = "does it speak the other one of http and https? else see: hearthnet log"
            raise HearthNetError(f"the connection to the node broke: {error}", hint=hint) from error
        finally:
            if answer is not None:
                await answer.aclose()

    def _late(self) -> WireError:
        return WireError("timeout", f"no answer within {self._timeout_s:g} s")


def _checked(url: str) -> httpx.URL:
    """Returns an address that a connection can be tried to; httpx would tell what is wrong in five ways, one by one."""
    try:
        parsed = httpx.URL(url)
        is_usable = parsed.scheme in ("http", "https") and parsed.host != "" and 0 < (parsed.port or 80) <= _MAX_PORT
    except httpx.InvalidURL:
        is_usable = False
    if not is_usable:
        raise HearthNetError(f"{url!r} is no address of a node", hint="such as http://192.168.1.7:7080")
    return parsed


def call_headers(
    keys: KeyPair, community: str, capability: str, version: str, body: Any, request_id: str
) -> dict[str, str]:
    """Returns the signed headers of a call, and `traceparent`: of the trace around it, or for what knows only that.

    It is left out where the request id names no trace. What records nothing calls itself not sampled.
    """
    signed = sign(keys, community, capability, version, body, request_id)
    if around := headers_for():
        return {**signed, **around}
    try:
        return {**signed, TRACEPARENT: spell(trace_id_of(request_id) or "", os.urandom(8).hex(), is_sampled=False)}
    except ValueError:
        return signed
