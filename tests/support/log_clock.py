"""The clock by which records are made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hearthnet.observability import logging as node_logging
from hearthnet.observability.logs import handler, ordinary

CLOCKED = (node_logging, handler, ordinary)


def set_log_clock(monkeypatch: pytest.MonkeyPatch, read_ns: Callable[[], int]) -> None:
    """Makes records have the time that `read_ns` returns, nanoseconds since 1970."""
    for module in CLOCKED:
        monkeypatch.setattr(module, "time_ns", read_ns)
