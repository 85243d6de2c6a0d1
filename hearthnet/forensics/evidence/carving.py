"""Carves rows out of a damaged database page by page, without its B-trees and without SQLite.

A row lies on one leaf page (a long one continues in a chain of overflow pages), so a damaged page costs only the rows
on it, even if it was the root of a table, the schema, or the first page of the file. The shape of a row tells its
table. A page in the WAL takes precedence over the same page in the file.

Free pages still hold deleted rows. They are skipped as far as the freelist can be followed.
SQLite's `.recover` exists only in its shell, not in Python's sqlite3, and forensics needs nothing but a bare Python.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from hearthnet.files import open_file
from hearthnet.forensics.evidence.safe_stat import is_file, why_unreadable

__all__ = ["Carved", "carve"]

Carved = dict[str, dict[int, tuple[Any, ...]]]  # table -> rowid -> values in column order

_PAGE_BYTES: Final = 4_096  # assumed if the file's first page is damaged
_MAX_PAGES: Final = 1 << 17  # half a gigabyte: four times a store's default budget
_MAX_ROWS: Final = 50_000  # per table; a ring has 10,000
_MAX_ROW_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 100  # the file header at the start of the first page
_LEAF: Final = 0x0D
_LEAF_HEAD_BYTES: Final = 8
_WAL_HEAD: Final = struct.Struct(">IIIIII")
_WAL_HEAD_BYTES: Final = 32
_WAL_MAGIC: Final = 0x377F0682  # the last bit is the byte order of checksums
_FRAME_HEAD: Final = struct.Struct(">IIII")
_FRAME_HEAD_BYTES: Final = 24
_INT_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)
_ULID_CHARS: Final = 26
_LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical"})
_KINDS: Final = frozenset({"trace", "log"})


def carve(path: Path, wal: Path | None = None) -> Carved:
    """Returns all rows that can be found, by table. Never raises because of the content.

    Args:
        path: the database.
        wal: its WAL, if there is one.

    Raises:
        OSError: raised when a file cannot be read.
    """
    found: Carved = {"traces": {}, "logs": {}, "gaps": {}, "runs": {}}
    if not is_file(path):
        return found
    with open_file(path) as file:
        pages = _Pages(file, _frames_of(wal))
        free = pages.free()
        for number in range(1, pages.count + 1):
            if number in free:
                continue
            for row_id, values in pages.rows(number):
                table = _table_of(values)
                if table is not None and len(found[table]) < _MAX_ROWS:
                    found[table][row_id] = values
    return found


def _table_of(values: tuple[Any, ...]) -> str | None:
    """Returns the table that a row belongs to, by its shape. `seq` is not among the values: it is the rowid."""
    count = len(values)
    if count in (5, 6) and values[0] is None and values[2] in _KINDS:
        return "gaps" if _are(values, int, 1, 4) else None
    if count >= 14 and values[0] is None and _are(values, str, 1, 2, 4, 9, 12) and _are(values, int, 6, 7):
        return "traces"
    if count >= 12 and values[0] is None and values[3] in _LEVELS and _are(values, str, 1, 4, 5, 10):
        return "logs" if _are(values, int, 2) else None
    if count >= 8 and _are(values, str, 0, 2) and len(values[0]) == _ULID_CHARS and _are(values, int, 3, 5):
        return "runs"
    return None


def _are(values: tuple[Any, ...], kind: type, *columns: int) -> bool:
    return all(isinstance(values[column], kind) for column in columns)


def _frames_of(wal: Path | None) -> dict[int, bytes]:
    """Returns the newest committed version of each page in a WAL."""
    if wal is None or why_unreadable(wal) or not is_file(wal):
        return {}
    committed: dict[int, bytes] = {}
    pending: dict[int, bytes] = {}
    with open_file(wal) as file:
        head = file.read(_WAL_HEAD_BYTES)
        if len(head) < _WAL_HEAD_BYTES:
            return {}
        magic, _, size, _, *salts = _WAL_HEAD.unpack_from(head)
        if magic & ~1 != _WAL_MAGIC or not _is_page_size(size):
            return {}
        while len(frame := file.read(_FRAME_HEAD_BYTES + size)) == _FRAME_HEAD_BYTES + size:
            number, pages, *own = _FRAME_HEAD.unpack_from(frame)
            if own != salts:  # left from before the WAL was reset
                break
            pending[number] = frame[_FRAME_HEAD_BYTES:]
            if pages:  # the last frame of a transaction
                committed.update(pending)
                pending.clear()
    return committed


def _is_page_size(size: int) -> bool:
    return 512 <= size <= 65_536 and size & (size - 1) == 0


class _Pages:
    """The pages of a database, including those in its WAL."""

    def __init__(self, file: BinaryIO, newer: dict[int, bytes]) -> None:
        self._file = file
        self._newer = newer
        first = newer.get(1) or file.read(_HEAD_BYTES)
        size = int.from_bytes(first[16:18], "big") if first.startswith(b"SQLite format 3\0") else 0
        size = 65_536 if size == 1 else size
        self._size = next((len(page) for page in newer.values()), size if _is_page_size(size) else _PAGE_BYTES)
        self._unused = first[20] if size and len(first) > 20 else 0  # reserved bytes at the end of each page
        self._first_free = int.from_bytes(first[32:36], "big") if size else 0
        in_file = file.seek(0, 2) // self._size
        self.count = min(_MAX_PAGES, max(in_file, max(newer, default=0)))

    def page(self, number: int) -> bytes:
        """Returns a page; empty if it does not exist."""
        if (newer := self._newer.get(number)) is not None:
            return newer
        if not 1 <= number <= self.count:
            return b""
        self._file.seek((number - 1) * self._size)
        found = self._file.read(self._size)
        return found if len(found) == self._size else b""

    def free(self) -> set[int]:
        """Returns the free pages, as far as the freelist is intact."""
        found: set[int] = set()
        trunk = self._first_free
        while 1 < trunk <= self.count and trunk not in found:
            found.add(trunk)
            page = self.page(trunk)
            if len(page) < 8:
                break
            count = min(int.from_bytes(page[4:8], "big"), (self._size - 8) // 4)
            found.update(struct.unpack_from(f">{count}I", page, 8))
            trunk = int.from_bytes(page[:4], "big")
        return found

    def rows(self, number: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields the rowid and values of each valid row on a page, if it is a table leaf."""
        page = self.page(number)
        head = _HEAD_BYTES if number == 1 else 0
        if len(page) < self._size or page[head] != _LEAF:
            return
        count = int.from_bytes(page[head + 3 : head + 5], "big")
        cells = head + _LEAF_HEAD_BYTES
        for at in range(cells, min(cells + 2 * count, self._size - 1), 2):
            try:
                yield self._row(page, int.from_bytes(page[at : at + 2], "big"))
            except (IndexError, ValueError, struct.error):  # an invalid cell, length or text
                continue

    def _row(self, page: bytes, at: int) -> tuple[int, tuple[Any, ...]]:
        length, at = _varint(page, at)
        row_id, at = _varint(page, at)
        if not 0 < length <= _MAX_ROW_BYTES:
            raise ValueError("implausible row length")
        row_id -= (row_id >> 63) << 64
        return row_id, tuple(_values(self._payload(page, at, length)))

    def _payload(self, page: bytes, at: int, length: int) -> bytes:
        """Returns a row's bytes from its page and its overflow chain."""
        usable = self._size - self._unused
        if length <= usable - 35:
            return _exactly(page[at : at + length], length)
        least = (usable - 12) * 32 // 255 - 23
        here = least + (length - least) % (usable - 4)
        here = here if here <= usable - 35 else least
        parts, missing = [_exactly(page[at : at + here], here)], length - here
        following = int.from_bytes(page[at + here : at + here + 4], "big")
        while missing > 0:
            other = self.page(following)
            part = other[4 : 4 + min(missing, usable - 4)]
            if not part:
                raise ValueError("broken overflow chain")
            parts.append(part)
            missing -= len(part)
            following = int.from_bytes(other[:4], "big")
        return b"".join(parts)


def _exactly(part: bytes, length: int) -> bytes:
    if len(part) != length:
        raise ValueError("beyond the page")
    return part


def _values(payload: bytes) -> Iterator[Any]:
    """Yields the values of a row. Its header holds the serial types of all values."""
    head, at = _varint(payload, 0)
    body = head
    if not 0 < head <= len(payload):
        raise ValueError("invalid header")
    while at < head:
        kind, at = _varint(payload, at)
        value, length = _value(payload, body, kind)
        body += length
        yield value
    if body != len(payload):
        raise ValueError("wrong length")


def _value(payload: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == 0:
        return None, 0
    if kind <= 6:
        length = _INT_BYTES[kind]
        return int.from_bytes(_exactly(payload[at : at + length], length), "big", signed=True), length
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], 8
    if kind in (8, 9):
        return kind - 8, 0
    if kind < 12:
        raise ValueError("unused serial type")
    length = (kind - 12) // 2
    raw = _exactly(payload[at : at + length], length)
    return (raw.decode("utf-8", "replace") if kind % 2 else raw), length


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Returns a number of one to nine bytes, and the offset after it."""
    value = 0
    for index in range(8):
        byte = raw[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | raw[at + 8], at + 9
