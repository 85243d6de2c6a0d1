"""Numbered lines for the JSON log's files, and what the files hold."""

from __future__ import annotations

import orjson

from hearthnet.observability.logs.daily_file import log_paths

DAY_S = 86_400
NOON_S = 1_795_521_600.0  # 2026-11-24, UTC


def line(number: int, size: int = 1_000) -> bytes:
    """One JSON line of about so many bytes."""
    return b'{"n":%d,"x":"%b"}\n' % (number, b"y" * size)


def numbers(directory) -> list[int]:
    """What the lines of all files say, in the order of the files."""
    return [orjson.loads(raw)["n"] for path in log_paths(directory) for raw in path.read_bytes().splitlines()]


def total(directory) -> int:
    """The bytes of all files."""
    return sum(path.stat().st_size for path in log_paths(directory))
