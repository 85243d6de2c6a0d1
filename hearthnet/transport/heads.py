"""What a request may look like before it is parsed: one reading only of where it ends, and nothing that is no HTTP/1.

h11 is lenient where nodes and proxies need not be: it ends lines at a bare LF, unfolds folded headers, takes
`Content-Length` twice, and ignores it beside `Transfer-Encoding`. A proxy in front that reads one of these otherwise
takes the end of one request for the beginning of another.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import h11
from h11._receivebuffer import ReceiveBuffer

__all__ = ["MAX_HEAD_BYTES", "MESSAGES", "HeadTrouble", "StrictConnection", "head_trouble"]

HeadTrouble = Literal["ambiguous", "malformed", "not_http1", "target", "too_many_chunks", "too_much_head", "upgrade"]

MAX_HEAD_BYTES: Final = 16_384  # a signed call has 700 bytes; browsers with many cookies have 4 kB
MAX_HEADERS: Final = 100  # a signed call has 15
MAX_LINE_BYTES: Final = 8_192  # of a request line; RFC 9112 asks for 8,000 at least
MAX_CHUNK_LINE_BYTES: Final = 256  # a length has 8; nobody here reads what may stand behind it
# A chunk takes 10 µs, whatever is in it: a megabyte byte by byte would take the node 3 s. Clients send 16 kB or more.
FREE_CHUNKS: Final = 1_000
MIN_CHUNK_BYTES: Final = 256  # on average, where there are more
# Where the answer says more than "400 Bad Request"; by what is counted.
MESSAGES: Final[dict[HeadTrouble, str]] = {
    "ambiguous": "where this request ends can be read in two ways",
    "malformed": "this is no valid HTTP request",
    "not_http1": "this port speaks HTTP/1.1",
    "target": "a request here names a path, and is neither a proxy's nor a tunnel's",
    "too_many_chunks": "the body comes in too many small chunks; send it in larger ones, or with Content-Length",
    "too_much_head": "the headers are larger than 16 kB or more than 100, or the request line is longer than 8 kB",
    "upgrade": "no WebSocket is spoken here",
}
_BEGINNINGS: Final = frozenset(bytes((code,)) for code in (*b"\r\n", *range(0x21, 0x7F)))
_LINE: Final = re.compile(rb"[!-~]+ /[!-~]* HTTP/1\.[01]\r\n")
_HTTP1: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]\r\n")
_ANY_HTTP: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/[0-9.]+\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*[0-9]{1,18}[ \t]*\r\n")
_UPGRADE: Final = re.compile(rb"\r\nupgrade:[^\r]*websocket")
_CONTROLS: Final = bytes(byte for byte in (*range(32), 127) if byte not in b"\t\r\n")
_NO_TEXT: Final = _CONTROLS + b"\r\n"


def head_trouble(data: bytes) -> HeadTrouble | None:
    """Returns why the request that begins with `data` is refused, or None; what has come of a head is enough to tell.

    Takes 7 µs for the head of a signed call.
    """
    if data[:1] not in _BEGINNINGS:
        return "malformed"  # TLS, mostly, whose random bytes may look like lines
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0 and len(data) >= MAX_HEAD_BYTES:
        return "too_much_head"
    head = data if end < 0 else data[: end + 2]
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines:
        return "ambiguous"
    if lines > MAX_HEADERS + 1:
        return "too_much_head"
    if not lines:
        return "too_much_head" if len(head) > MAX_LINE_BYTES else None
    return _line_trouble(head) or (_field_trouble(head.lower()) if end >= 0 else None)


def _line_trouble(head: bytes) -> HeadTrouble | None:
    if head.find(b"\r\n", 0, MAX_LINE_BYTES) < 0:
        return "too_much_head"
    if _LINE.match(head) is not None:
        return None
    if _HTTP1.match(head) is not None:
        return "target"
    return "malformed" if _ANY_HTTP.match(head) is None else "not_http1"


def _field_trouble(head: bytes) -> HeadTrouble | None:
    """Looks at the whole head, in lower case."""
    # h11 refuses each of these too, but only after its patterns tried 16 kB of spaces before it in every way: 1 s.
    if head.count(b"\r") != head.count(b"\n") or len(head.translate(None, _CONTROLS)) != len(head):
        return "malformed"
    if b"\n " in head or b"\n\t" in head:
        return "ambiguous"
    lengths, codings = head.count(b"\r\ncontent-length"), head.count(b"\r\ntransfer-encoding")
    if lengths + codings > 1 or (lengths and _LENGTH.search(head) is None):
        return "ambiguous"
    if codings and b" http/1.0\r\n" in head[: MAX_LINE_BYTES + 2]:
        return "ambiguous"
    return "upgrade" if b"\r\nupgrade:" in head and _UPGRADE.search(head) is not None else None


def _is_chunk_line(line: bytearray) -> bool:
    return len(line) <= MAX_CHUNK_LINE_BYTES and len(line.translate(None, _NO_TEXT)) == len(line) - len(b"\r\n")


class _StrictBuffer(ReceiveBuffer):
    """What came and is not parsed yet; gives h11 no line of a body that could keep its patterns busy.

    h11 looks at a line as long as it came, and at 250 kB of spaces in one for a minute.

    Attributes:
        is_in_body: the lines that come are those of chunks.
        trouble: why no more was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_in_body = False
        self.trouble: HeadTrouble | None = None
        self._chunks = 0  # of this body
        self._body_bytes = 0

    def maybe_extract_next_line(self) -> bytearray | None:
        """Returns the line before a chunk.

        Raises:
            h11.LocalProtocolError: raised where it is too long, has what is no text, or is one of too many; h11 makes
                it a remote one.
        """
        line = super().maybe_extract_next_line()
        if line is not None:
            self._chunks += 1
            if not _is_chunk_line(line):
                raise self._refused("malformed")
            if self._chunks > FREE_CHUNKS and self._body_bytes < self._chunks * MIN_CHUNK_BYTES:
                raise self._refused("too_many_chunks")
        return line

    def maybe_extract_at_most(self, count: int) -> bytearray | None:
        """Returns what has come of a body, and counts it."""
        found = super().maybe_extract_at_most(count)
        self._body_bytes += len(found or b"")
        return found

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Returns the lines of a head, or none after the last chunk.

        Raises:
            h11.LocalProtocolError: raised for trailers: nobody here reads them, and h11 ends their lines at a bare LF.
        """
        if not self.is_in_body:
            self._chunks = self._body_bytes = 0
        elif not b"\r\n".startswith(self._data[:2]):
            raise self._refused("ambiguous")
        return super().maybe_extract_lines()

    def _refused(self, trouble: HeadTrouble) -> h11.LocalProtocolError:
        self.trouble = trouble
        return h11.LocalProtocolError(MESSAGES[trouble])


class StrictConnection(h11.Connection):
    """h11's connection of a server, with each head looked at before h11 does.

    Attributes:
        trouble: why the last request was refused; h11's own reasons are all `malformed`.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.trouble: HeadTrouble = "malformed"
        self._receive_buffer: _StrictBuffer = _StrictBuffer()  # h11 lets nobody hand one in

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """Returns the next event.

        Raises:
            h11.RemoteProtocolError: raised when what came is refused.
        """
        if self.their_state is h11.IDLE and (data := self.trailing_data[0]):
            trouble = head_trouble(data)
            if trouble is not None:
                self.trouble = trouble
                raise h11.RemoteProtocolError(MESSAGES[trouble])
        self._receive_buffer.is_in_body = self.their_state is h11.SEND_BODY
        try:
            return super().next_event()
        except h11.RemoteProtocolError:
            self.trouble = self._receive_buffer.trouble or self.trouble
            raise
