"""Counts what the door turns away, and logs it so seldom that a flood of it is no flood in the log."""

from __future__ import annotations

from typing import Any, Literal, get_args

from hearthnet.observability import get_logger, metrics
from hearthnet.observability.logging import RateLimitedLogger

__all__ = ["Reason", "note_refused"]

# Those of connections, of bytes that are no request, and of a request's head.
Reason = Literal[
    "descriptors",
    "connections",
    "crowded",
    "handshake",
    "silent",
    "slow",
    "stalled",
    "pipelined",
    "malformed",
    "not_http1",
    "target",
    "trailers",
    "upgrade",
    "too_many_chunks",
    "too_much_head",
    "bad_host",
    "host",
    "bad_header",
    "origin",
    "method",
    "unexpected_body",
    "body_too_large",
    "content_type",
]

_often = RateLimitedLogger(get_logger(__name__))
metrics.refused_total.allow("reason", get_args(Reason))


def note_refused(reason: Reason, **extras: Any) -> None:
    """Notes a request or a connection that was turned away before anything was called.

    Args:
        reason: the label of `hearthnet_refused_total`; never what a caller sent.
        extras: for the log, where this reason stands at most once a second, with how many there were between.
    """
    metrics.refused_total.labels(reason).inc()
    _often.warning("request refused", key=reason, extra={"reason": reason, **extras})
