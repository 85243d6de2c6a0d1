"""Counter and rate-limited log of refused connections and requests: a flood of them must not flood the log."""

from __future__ import annotations

from typing import Any, Literal, get_args

from hearthnet.observability import get_logger, metrics
from hearthnet.observability.logging import RateLimitedLogger

__all__ = ["Reason", "count_refused"]

# For connections, for bytes that are not a request, and for the head of a request.
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
    "page",
]

_often = RateLimitedLogger(get_logger(__name__))
metrics.refused_total.allow("reason", get_args(Reason))


def count_refused(reason: Reason, **extras: Any) -> None:
    """Counts a request or connection that was refused before anything was called.

    Args:
        reason: the label of `hearthnet_refused_total`; never data from a caller.
        extras: for the log, which has each reason at most once a second, with the number of records dropped between.
    """
    metrics.refused_total.labels(reason).inc()
    _often.warning("request refused", key=reason, extra={"reason": reason, **extras})
