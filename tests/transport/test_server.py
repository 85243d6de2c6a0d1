"""The listening socket."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

from hearthnet.config import TransportConfig
from hearthnet.transport.server import bind


async def test_responses_are_sent_without_delay(free_port):
    """Accepted connections have TCP_NODELAY: a response in two pieces is not delayed."""
    found = asyncio.get_running_loop().create_future()

    async def accept(_, writer):
        found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with closing(bind(TransportConfig(host="127.0.0.1", port=free_port))) as listening:
        async with await asyncio.start_server(accept, sock=listening):
            _, writer = await asyncio.open_connection("127.0.0.1", free_port)
            assert await found
            writer.close()
