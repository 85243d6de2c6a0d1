"""The news of a store for all open streams of the page: one task asks the database, however many look.

The task starts with the first viewer and ends with the last. What it reads is encoded once and handed to each viewer's
bounded queue; a viewer that falls behind gets a `reset` instead of the events that it missed. An event's id is a place
in the store, epoch and seq, so a viewer that comes back gets the records since, or a `reset` where that cannot be.

Guarantees:
    - No record twice and none missing in a stream, from its `hello` on; `skipped` counts those of a flood.
    - Revoking, and the end of the node, end the streams within a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import orjson
from starlette.concurrency import run_in_threadpool

from hearthnet.errors import HearthNetError, WireError
from hearthnet.observability import get_logger
from hearthnet.observability.logging import RateLimitedLogger
from hearthnet.observability.store.query.news import News, Place, news_since, place_of
from hearthnet.transport.page.shell import page_version
from hearthnet.transport.page.source import Page
from hearthnet.transport.page.views import Overview

__all__ = ["MAX_CATCH_UP", "MAX_VIEWERS", "Feed", "Viewer"]

log = get_logger(__name__)
_often = RateLimitedLogger(log)

POLL_S: Final = 0.5
_NOW_S: Final = 2.0
MAX_VIEWERS: Final = 64
MAX_CATCH_UP: Final = 1_000  # records; the ring keeps at least twice as many of each class
_MAX_NEW: Final = 100  # of each table between two polls: as many as a list shows
_MAX_QUEUED: Final = 16  # events of a viewer: eight seconds; a response that stalls for ten is aborted


class Viewer:
    """An open stream. Used by its task and by the feed's, on one event loop.

    Args:
        holder: the hash of its secret.
        is_local: whether it comes from this machine.
        cursor: the place of the last event that it had before; None for a new one.
    """

    def __init__(self, holder: str, *, is_local: bool, cursor: str | None) -> None:
        self.holder = holder
        self.is_local = is_local
        self.cursor = cursor
        self._queue: deque[bytes] = deque()
        self._event = asyncio.Event()
        self.is_over = False

    def put(self, chunk: bytes, place: Place) -> None:
        """Queues events that end at a place; if too many wait already, a `reset` replaces all of them."""
        if len(self._queue) >= _MAX_QUEUED:
            self._queue.clear()
            chunk = _reset("this browser reads too slowly", place)
        self._queue.append(chunk)
        self._event.set()

    def end(self) -> None:
        """Ends the stream, without the queued events."""
        self._queue.clear()
        self.is_over = True
        self._event.set()

    async def get(self, timeout_s: float) -> bytes | None:
        """Returns the next events, or None if there are none within `timeout_s`, or ever."""
        if not self._queue and not self.is_over:
            self._event.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), timeout_s)
        return self._queue.popleft() if self._queue else None


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one poll has found, encoded: for all viewers, and for each that joins."""

    place: Place
    news: bytes
    joining: list[bytes]


class Feed:
    """The viewers of a page.

    Args:
        page: the page.
        overview: makes the event `now`.
    """

    def __init__(self, page: Page, overview: Overview) -> None:
        self._page = page
        self._overview = overview
        self._viewers: set[Viewer] = set()
        self._joining: list[Viewer] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._place: Place | None = None
        self._now = b""
        self._now_at = float("-inf")
        self._is_over = False

    def join(self, viewer: Viewer) -> None:
        """Adds a viewer, whose first event is `hello`.

        Raises:
            WireError: raised when the node stops, or has too many viewers.
        """
        if self._is_over:
            raise WireError("partition", "this node is stopping", retry_after_ms=1_000)
        if len(self._viewers) + len(self._joining) >= MAX_VIEWERS:
            raise WireError("capacity_exceeded", f"{MAX_VIEWERS} pages are open already", retry_after_ms=10_000)
        self._joining.append(viewer)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="page-feed")

    def leave(self, viewer: Viewer) -> None:
        """Removes a viewer. Idempotent."""
        self._viewers.discard(viewer)
        with suppress(ValueError):
            self._joining.remove(viewer)
        self._wake.set()  # if it was the last one, the task ends

    def end(self) -> None:
        """Ends all streams: the node stops."""
        self._is_over = True
        for viewer in (*self._viewers, *self._joining):
            viewer.end()

    async def _run(self) -> None:
        try:
            while self._viewers or self._joining:
                await self._guarded_turn()
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_S)
        finally:
            self._task, self._place = None, None
            await run_in_threadpool(self._page.disconnect)

    async def _guarded_turn(self) -> None:
        """Polls once. An error concerns no viewer: the streams go on, and the pages see it in their own requests."""
        self._end_revoked()
        try:
            await self._turn()
        except HearthNetError as error:
            self._page.doubt()
            _often.warning("the page's stream cannot read the store", key="store", extra={"reason": error.message})
        except Exception:  # a bug must not leave the streams open without news
            log.exception("the page's stream failed")
            for viewer in (*self._viewers, *self._joining):
                viewer.end()

    def _end_revoked(self) -> None:
        grants = self._page.grants
        for viewer in (*self._viewers, *self._joining):
            if not grants.has(viewer.holder) or not (viewer.is_local or grants.shared_until_us()):
                viewer.end()

    async def _turn(self) -> None:
        joining = self._joining.copy()
        turn = await run_in_threadpool(self._read, self._place, [viewer.cursor for viewer in joining])
        self._place = turn.place
        if turn.news:
            for viewer in self._viewers:
                viewer.put(turn.news, turn.place)
        for viewer, chunk in zip(joining, turn.joining, strict=True):
            if viewer in self._joining:  # else it has left meanwhile
                self._joining.remove(viewer)
                self._viewers.add(viewer)
                viewer.put(chunk, turn.place)

    def _read(self, after: Place | None, cursors: Sequence[str | None]) -> _Turn:
        """Reads and encodes the records since a place, and the first events of each viewer that joins."""
        reader = self._page.live
        place = place_of(reader, self._page.path)
        parts = []
        if after is not None and (after.epoch != place.epoch or after.seq > place.seq):
            parts.append(_reset("the store was made anew", place))
        elif after is not None:
            parts.append(_news(news_since(reader, after.seq, place.seq, _MAX_NEW), place))
        if time.monotonic() - self._now_at >= _NOW_S:
            self._now_at = time.monotonic()
            self._now = self._present()
            parts.append(self._now)
        # A crowd that comes back after a restart waits at the same place: what it gets is read once.
        greetings = {cursor: self._greeting(cursor, place) + self._now for cursor in set(cursors)}
        return _Turn(place, b"".join(parts), [greetings[cursor] for cursor in cursors])

    def _present(self) -> bytes:
        """Returns the event `now`; empty if it cannot be made, which must not keep records from the viewers."""
        try:
            found = self._overview.now(has_vitals=False)
        except HearthNetError as error:
            _often.warning("the page's overview cannot be made", key="now", extra={"reason": error.message})
            return b""
        found["node"]["page_version"] = page_version()
        return _event("now", found)

    def _greeting(self, cursor: str | None, place: Place) -> bytes:
        """Returns `hello`, and the events since a cursor, or a `reset` if they are not known, or are too many.

        The id of `hello` is the place from which the stream goes on. Before a `reset` it has none: a viewer that loses
        the connection between the two must get the `reset` again.
        """
        hello = {"epoch": place.epoch, "seq": place.seq, "version": page_version()}
        if cursor is None:
            return _event("hello", hello, place)
        known = Place.parse(cursor)
        if known is None or known.epoch != place.epoch or known.seq > place.seq:
            return _event("hello", hello) + _reset("another store", place)
        if place.seq - known.seq > MAX_CATCH_UP:
            return _event("hello", hello) + _reset("too much is new", place)
        since = news_since(self._page.live, known.seq, place.seq, MAX_CATCH_UP)
        return _event("hello", hello, known) + _news(since, place)


def _news(news: News, place: Place) -> bytes:
    """Returns the events of records. Only the last one has the id: a viewer that missed it gets all of them again."""
    found = [("skipped", {"count": news.skipped}), ("traces", news.traces), ("logs", news.logs)]
    events = [(kind, data) for kind, data in found if data and data != {"count": 0}]
    last = len(events) - 1
    return b"".join(_event(kind, data, place if at == last else None) for at, (kind, data) in enumerate(events))


def _reset(reason: str, place: Place) -> bytes:
    return _event("reset", {"reason": reason}, place)


def _event(kind: str, data: object, place: Place | None = None) -> bytes:
    head = b"" if place is None else f"id: {place}\n".encode()
    return b"%bevent: %b\ndata: %b\n\n" % (head, kind.encode(), orjson.dumps(data))
