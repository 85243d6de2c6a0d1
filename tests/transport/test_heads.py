"""What a head and the lines between chunks may look like, and that nothing else reaches the patterns of h11."""

from __future__ import annotations

import h11
import pytest

from hearthnet.transport.heads import StrictConnection, head_trouble
from hearthnet.transport.hosts import MalformedHostError, without_port

START = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
SPACES = b" " * 15_000  # before a byte that fits no pattern, h11 tries each way to share them out: a second


def events(connection: StrictConnection, data: bytes) -> list:
    """All that comes of some data."""
    connection.receive_data(data)
    return list(iter(connection.next_event, h11.NEED_DATA))


@pytest.mark.parametrize("line", [b"a:" + SPACES + b"\0", b"a:" + SPACES + b"\rb", b"a: \x0b", b"a\x7f: b", b"\x1b: a"])
def test_control_bytes_are_refused_before_anything_is_matched(line):
    """A head with one is malformed by a count of bytes; tabs and other alphabets are text."""
    assert head_trouble(START + line + b"\r\n\r\n") == "malformed"
    assert head_trouble(START + b"a: \tb\t\xc3\xa4\r\n\r\n") is None


@pytest.mark.parametrize("is_piecemeal", [False, True])
@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        (b"1;" + SPACES + b"\r\nx\r\n0\r\n\r\n", "malformed"),
        (b"1;a=" + b"b" * 300 + b"\r\nx\r\n0\r\n\r\n", "malformed"),
        (b"1;a\rb\r\nx\r\n0\r\n\r\n", "malformed"),
        (b"1;\nxx\r\n0\r\n\r\n", "malformed"),
        (b"0\r\na:" + SPACES + b"\0\r\n\r\n", "ambiguous"),
        (b"0\r\na: b\r\n\r\n", "ambiguous"),
        (b"0\r\n\n", "ambiguous"),
    ],
)
def test_lines_between_chunks_are_short_and_text(line, trouble, is_piecemeal):
    """Whatever comes in one piece: h11 bounds a line that is not whole, and takes 60 s for 250 kB of one that is."""
    connection = StrictConnection()
    events(connection, CHUNKED)
    pieces = [line[at : at + 1] for at in range(len(line))] if is_piecemeal else [line]
    with pytest.raises(h11.RemoteProtocolError):
        [events(connection, piece) for piece in pieces]
    assert connection.trouble == trouble


def test_plain_chunks_are_read():
    """Extensions that are short, and a body of many chunks, are as h11 has them; so is the request behind them."""
    connection = StrictConnection()
    found = events(connection, CHUNKED + b'1;name="value"\r\nx\r\n' + b"2 \r\nyz\r\n" * 100 + b"0\r\n\r\n")
    assert b"".join(bytes(event.data) for event in found if isinstance(event, h11.Data)) == b"x" + b"yz" * 100
    assert isinstance(found[-1], h11.EndOfMessage)


def test_chunks_are_worth_their_work():
    """A body byte by byte is refused after a thousand chunks; one of many bytes may have as many as it needs."""
    connection = StrictConnection()
    events(connection, CHUNKED + (b"400\r\n" + b"x" * 1_024 + b"\r\n") * 2_000)
    with pytest.raises(h11.RemoteProtocolError):
        events(connection, b"1\r\nx\r\n" * 100_000)
    assert connection.trouble == "too_many_chunks"
    connection = StrictConnection()
    for _ in range(2):  # of each request anew
        found = events(connection, CHUNKED + b"1\r\nx\r\n" * 999 + b"0\r\n\r\n")
        assert isinstance(found[-1], h11.EndOfMessage)
        connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()


@pytest.mark.parametrize("host", ["[" + "0" * 46 + "]", "[" + "0" * 15_000, "[::1", "[]", "[::1%" + "a" * 65 + "]"])
def test_long_addresses_are_no_hosts(host):
    """An address has 45 characters, and its zone a few; the rest is not looked at in every way."""
    with pytest.raises(MalformedHostError):
        without_port(host)
    assert without_port("[fe80::1%br-lan.2]:80") == "fe80::1%br-lan.2"
