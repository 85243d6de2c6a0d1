"""Counts what the door turns away, and logs it so seldom that a flood of it is no flood in the log."""

from __future__ import annotations

from typing import Any

from hearthnet.observability import get_logger, metrics
from hearthnet.observability.logging import RateLimitedLogger

__all__ = ["note_refused"]

_often = RateLimitedLogger(get_logger(__name__))


def note_refused(reason: str, **extras: Any) -> None:
    """Notes a request or a connection that was turned away before anything was called.

    Args:
        reason: one of a few constant words, the label of `hearthnet_refused_total`; never what a caller sent.
        extras: for the log, where this reason stands at most once a second, with how many there were between.
    """
    metrics.refused_total.labels(reason).inc()
    _often.warning("request refused", key=reason, extra={"reason": reason, **extras})
