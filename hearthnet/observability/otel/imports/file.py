"""The requests in a file of OTLP: JSON, a request a line, or protobuf, each message with its length before it.

`hearthnet telemetry export` writes both, and so does a Collector's file exporter. The file is read request by request,
within bounds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from hearthnet.errors import HearthNetError
from hearthnet.files import open_file
from hearthnet.observability.otel.imports.parts import MAX_VALUES, TooLargeError

__all__ = ["MAX_FILE_BYTES", "MAX_REQUEST_BYTES", "ImportRefusedError", "requests"]

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
_MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024  # parsed, the emptiest take 45 times as much
_LENGTH_BYTES: Final = 4  # before each message, big-endian
_SPACE: Final = b" \t\r\n"
_BEFORE_VALUES: Final = (b"{", b"[", b",")  # those in texts are counted, too, as they are few
# What a file begins with that is something else, and what to do then.
_OTHERS: Final = {
    b"\x1f\x8b": ("it is compressed", "gunzip it first"),
    b"\x28\xb5\x2f\xfd": ("it is compressed", "unzstd it first"),
    b"PK\x03\x04": ("it is an archive", "take the file out of it first"),
    b"SQLite format 3\x00": ("it is a database", "a store is read where it is: hearthnet trace recent --data FOLDER"),
}


class ImportRefusedError(HearthNetError):
    """Raised when a file cannot be imported; nothing of it is."""


def requests(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each request with its number, from 1, in the form that JSON has.

    Raises:
        ImportRefusedError: raised when the file is not one of OTLP, is cut, or too large.
        MissingExtraError: raised for protobuf when `hearthnet[otlp]` is not installed.
        OSError: raised when it cannot be read.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
            raise ImportRefusedError(
                f"{path} has more than {MAX_FILE_BYTES // 2**20} MiB",
                hint="export a part of it: hearthnet telemetry export --since 1h",
            )
        begin = file.read(64)
        file.seek(0)
        for magic, (reason, hint) in _OTHERS.items():
            if begin.startswith(magic):
                raise ImportRefusedError(f"{path} cannot be imported: {reason}", hint=hint)
        # A length that is allowed begins with 0, 1 or 2.
        is_binary = bool(begin) and begin[0] <= MAX_REQUEST_BYTES >> 24
        number = 0
        try:
            for number, request in enumerate(_messages(file) if is_binary else _lines(file), start=1):
                yield number, request
        except ValueError as error:
            raise refused(path, number + 1, error) from error
        if not number:
            raise ImportRefusedError(f"{path} has no records")


def refused(path: Path, number: int, error: ValueError) -> ImportRefusedError:
    """Returns the error for a request with a wrong form."""
    if isinstance(error, TooLargeError):
        hint = "write smaller requests (send_batch_max_size of a Collector's batch processor)"
    else:
        hint = "hearthnet telemetry export writes such files, and a Collector's file exporter: JSON lines or protobuf"
    return ImportRefusedError(f"{path} cannot be imported: request {number}: {error}", hint=hint)


def _lines(file: BinaryIO) -> Iterator[dict[str, Any]]:
    while line := file.readline(MAX_REQUEST_BYTES + 1):
        if len(line) > MAX_REQUEST_BYTES:
            raise TooLargeError(f"it has more than {MAX_REQUEST_BYTES // 2**20} MiB")
        if not line.strip(_SPACE):
            continue
        yield _object(line if _is_line(line) else line + file.read(MAX_REQUEST_BYTES - len(line)))


def _is_line(line: bytes) -> bool:
    """Returns whether a line ends an object; one of several lines is the only one of its file."""
    return line.rstrip(_SPACE).endswith(b"}")


def _object(text: bytes) -> dict[str, Any]:
    if sum(map(text.count, _BEFORE_VALUES)) > MAX_VALUES:
        raise TooLargeError(f"it has more than {MAX_VALUES:,} values")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON, or cut: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("it is not an object")  # of a file, not of a program
    return found


def _messages(file: BinaryIO) -> Iterator[dict[str, Any]]:
    from hearthnet.observability.otel.imports.binary import decoded  # late: of hearthnet[otlp]

    while prefix := file.read(_LENGTH_BYTES):
        length = int.from_bytes(prefix, "big")
        if len(prefix) < _LENGTH_BYTES or length > MAX_REQUEST_BYTES:
            raise ValueError("a length before a message is cut or too large")
        if length > _MAX_MESSAGE_BYTES:
            raise TooLargeError(f"the message has more than {_MAX_MESSAGE_BYTES // 2**20} MiB")
        body = file.read(length)
        if len(body) < length:
            raise ValueError("the message is cut")
        yield decoded(body)
