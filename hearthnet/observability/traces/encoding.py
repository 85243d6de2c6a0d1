"""How spans and extras of any trace become JSON that fits a row."""

from __future__ import annotations

import orjson

from hearthnet.constants import MAX_TRACE_ROW_BYTES
from hearthnet.observability.records.record import encode, fit
from hearthnet.observability.records.results import OK
from hearthnet.observability.traces.span import Span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["ROOM_BYTES", "encoded", "weightiest"]

# Bytes of spans and extras in a row, besides ids, names and an error of at most 2 KiB.
ROOM_BYTES: Final = MAX_TRACE_ROW_BYTES - 2_048 - 512


def encoded(spans: list[Span], extras: object, ended_ns: int, dropped: int) -> tuple[bytes, bytes]:
    """Returns spans and extras as JSON that fits a row.

    Args:
        spans: of a trace that ends.
        extras: its own.
        ended_ns: when it ended, on the monotonic clock.
        dropped: how many other spans it had.
    """
    found = _spans_in_json(spans, ended_ns) if spans else b"[]"
    own = encode(extras) if extras != {} else b"{}"  # type: ignore[arg-type]  # the program may have set anything
    if len(found) + len(own) > ROOM_BYTES or dropped:
        return _cut(spans, own, ended_ns, dropped)
    return found, own


def weightiest(spans: list[Span], now_ns: int) -> list[Span]:
    """Returns the spans in the order in which they are worth keeping: failed and open ones, then the slowest."""

    def weight(opened: Span) -> tuple[bool, int]:
        # By identity: a program may have set a status whose comparison raises.
        return not opened.closed_ns or opened.status is not OK, (opened.closed_ns or now_ns) - opened.started_ns

    return sorted(spans, key=weight, reverse=True)


def _spans_in_json(spans: list[Span], ended_ns: int) -> bytes:
    try:
        return b"%b" % orjson.dumps([opened.as_dict(ended_ns) for opened in spans])
    except Exception:  # a name that is no text, an integer over 64 bits  # noqa: BLE001
        return b"%b" % orjson.dumps([opened.as_safe_dict(ended_ns) for opened in spans])


def _cut(spans: list[Span], extras: bytes, ended_ns: int, dropped: int) -> tuple[bytes, bytes]:
    """Returns spans and extras that fit a row; `extras.truncated` counts the spans that did not.

    Failed spans are kept first, then the slowest.
    """
    extras = fit(extras, ROOM_BYTES // 4)
    room = ROOM_BYTES - len(extras) - len(',"truncated":1000000')
    kept: list[tuple[int, bytes]] = []
    for opened in weightiest(spans, ended_ns):
        found = orjson.dumps(opened.as_safe_dict(ended_ns))
        if len(found) < room:
            room -= len(found) + 1
            kept.append((opened.started_ns, found))
    missing = len(spans) - len(kept) + dropped
    if missing:
        extras = orjson.dumps({**orjson.loads(extras), "truncated": missing})
    return b"[" + b",".join(found for _, found in sorted(kept)) + b"]", extras
