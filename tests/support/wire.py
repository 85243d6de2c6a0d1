"""Posts thousands of calls as ready bytes: a client library takes longer for a call than the node does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from itertools import count

import httpx

Request = tuple[Mapping[str, str], bytes]  # headers and body


async def post_all(port: int, requests: Iterable[Request], connections: int = 8) -> list[httpx.Response]:
    """Returns the responses of a node to calls, in their order, over so many connections."""
    responses: dict[int, httpx.Response] = {}
    waiting = zip(count(), requests, strict=False)
    await asyncio.gather(*(_post(port, waiting, responses) for _ in range(connections)))
    return [responses[number] for number in range(len(responses))]


async def _post(port: int, waiting: Iterator[tuple[int, Request]], responses: dict[int, httpx.Response]) -> None:
    writer = None
    for number, (headers, body) in waiting:
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_bytes_of(headers, body))
        responses[number] = response = await _response_from(reader)
        if response.headers.get("connection") == "close":
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


def _bytes_of(headers: Mapping[str, str], body: bytes) -> bytes:
    sent = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    lines = [f"{name}: {value}\r\n" for name, value in sent.items()]
    return "".join(["POST /bus/v1/call HTTP/1.1\r\n", *lines, "\r\n"]).encode() + body


async def _response_from(reader: asyncio.StreamReader) -> httpx.Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = httpx.Headers([line.partition(": ")[::2] for line in head[1:-2]])
    body = await reader.readexactly(int(headers["content-length"]))
    return httpx.Response(int(head[0].split(" ")[1]), headers=headers, content=body)
