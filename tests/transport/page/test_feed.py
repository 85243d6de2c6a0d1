"""The stream's feed: what viewers get, resume and miss, and when it works at all."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing, suppress

import orjson
import pytest
from support.records import a_log, a_trace
from support.stores import put
from support.waiting import until

from hearthnet.constants import DATABASE
from hearthnet.errors import WireError
from hearthnet.observability.store import rows
from hearthnet.transport.page import feed as module
from hearthnet.transport.page.feed import MAX_CATCH_UP, MAX_VIEWERS, Feed, Viewer
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.page.source import Page, PageSettings
from hearthnet.transport.page.views import Overview


@pytest.fixture
def path(tmp_path):
    """A store with a node's run and three traces."""
    put(tmp_path / DATABASE, [a_trace(number) for number in (1, 2, 3)], runs=[("run", "ed25519:x")])
    return tmp_path / DATABASE


@pytest.fixture
def page(path, monkeypatch):
    """A page that is polled without a pause, so that no test waits; with everything it reads from the database."""
    monkeypatch.setattr(module, "POLL_S", 0.005)
    made = Page(PageSettings(path.parent, None, 256), Grants(None))
    yield made
    made.close()


@pytest.fixture
def feed(page):
    """The feed of the page."""
    return Feed(page, Overview(page))


class Reader:
    """What a viewer has received: kinds, ids and data."""

    def __init__(self, feed: Feed, cursor: str | None = None, *, is_local: bool = True) -> None:
        self.holder = feed._page.grants.holder(feed._page.grants.claim(feed._page.grants.offer()).secret)
        self.viewer = Viewer(self.holder, is_local=is_local, cursor=cursor)
        self.events: list[tuple[str, str | None, object]] = []
        feed.join(self.viewer)
        self._feed = feed
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not self.viewer.is_over:
            chunk = await self.viewer.get(60)
            for block in (chunk or b"").decode().split("\n\n")[:-1]:
                fields = dict(line.split(": ", 1) for line in block.splitlines())
                self.events.append((fields["event"], fields.get("id"), orjson.loads(fields["data"])))
        self._feed.leave(self.viewer)

    def of(self, kind: str) -> list:
        """The data of all events of a kind."""
        return [data for name, _, data in self.events if name == kind]

    def seqs(self, kind: str = "traces") -> list[int]:
        """The numbers of all records of a kind, in the order in which they came."""
        return [row["seq"] for rows in self.of(kind) for row in rows]

    @property
    def last_id(self) -> str:
        """What it would resume with."""
        return [event_id for _, event_id, _ in self.events if event_id is not None][-1]

    async def leave(self) -> None:
        """Closes the stream."""
        self.viewer.end()
        await self.task


async def test_hello_then_what_is_new(feed, path):
    """A new viewer gets no old records; then each new one once, with the id on the last event of a commit."""
    one = Reader(feed)
    await until(lambda: one.of("now"))
    put(path, [a_trace(4), a_trace(6)], [a_log(5, exc="E: x", extras=b'{"a": 1}')])
    await until(lambda: one.seqs("logs"))

    assert one.events[0][0] == "hello"
    assert one.of("hello")[0]["seq"] == 3
    assert (one.seqs(), one.seqs("logs")) == ([4, 6], [5])
    assert one.of("logs")[0][0]["extras"] == {"a": 1}
    ids = {kind: event_id for kind, event_id, _ in one.events}
    assert (ids["traces"], ids["logs"].partition(":")[2], ids["now"]) == (None, "6", None)
    await one.leave()


async def test_resumes_where_it_was(feed, path):
    """What was committed meanwhile comes once, then what is new; nothing twice."""
    one = Reader(feed)
    await until(lambda: one.of("now"))
    await one.leave()
    put(path, [a_trace(4)])
    other = Reader(feed, one.last_id)
    await until(other.seqs)
    put(path, [a_trace(5)])
    await until(lambda: len(other.seqs()) == 2)

    assert (other.seqs(), other.of("reset")) == ([4, 5], [])
    assert other.events[0][:2] == ("hello", one.last_id)  # cut off right behind it, it would resume from there again
    await other.leave()


@pytest.mark.parametrize("cursor", ["000000000000:3", "ahead", "x", "", "a:b:c", f"{12 * 'a'}:{10**30}", "§:1"])
async def test_cursor_that_cannot_be_gets_a_reset(feed, cursor):
    """Of another database, ahead of this one, or no cursor at all."""
    if cursor == "ahead":
        first = Reader(feed)
        await until(lambda: first.of("hello"))
        cursor = f"{first.of('hello')[0]['epoch']}:4"
        await first.leave()
    one = Reader(feed, cursor)
    await until(lambda: one.of("now"))

    assert [kind for kind, _, _ in one.events[:3]] == ["hello", "reset", "now"]
    assert one.events[0][1] is None  # cut off right behind it, it must get the reset again
    assert one.last_id.endswith(":3")
    await one.leave()


async def test_too_much_to_resume_gets_a_reset(feed, path):
    """More than the bound, and the viewer reads its lists again; up to it, it gets all."""
    first = Reader(feed)
    await until(lambda: first.of("hello"))
    put(path, [a_trace(number) for number in range(4, 4 + MAX_CATCH_UP)])
    await first.leave()
    in_time = Reader(feed, first.last_id.partition(":")[0] + ":3")
    late = Reader(feed, first.last_id.partition(":")[0] + ":2")
    await until(lambda: in_time.of("now") and late.of("now"))

    assert (len(in_time.seqs()), in_time.of("reset")) == (MAX_CATCH_UP, [])
    assert (late.seqs(), len(late.of("reset"))) == ([], 1)
    await in_time.leave()
    await late.leave()


async def test_flood_is_cut_and_counted(feed, path):
    """Of thousands of new records come the newest, and how many there were besides."""
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    put(path, [a_trace(number) for number in range(4, 304)])
    await until(one.seqs)

    assert one.seqs() == list(range(204, 304))
    assert one.of("skipped") == [{"count": 200}]
    await one.leave()


async def test_new_database_is_noticed(feed, path):
    """The store was moved aside: one reset, then the records of the new one."""
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    path.rename(path.with_suffix(".aside"))
    for ending in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).unlink()
    put(path, [a_trace(1)], runs=[("other", "ed25519:x")])
    await until(lambda: one.of("reset"))
    put(path, [a_trace(2)])
    await until(one.seqs)

    assert (one.of("reset"), one.seqs()) == ([{"reason": "the store was made anew"}], [2])
    await one.leave()


async def test_missing_database_ends_no_stream(feed, path):
    """Nothing can be read for a while; then the stream goes on."""
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    aside = path.with_suffix(".aside")
    path.rename(aside)
    polls = feed._page.live
    await until(lambda: polls._connection is None)
    aside.rename(path)
    put(path, [a_trace(4)])
    await until(one.seqs)

    assert one.seqs() == [4]
    await one.leave()


async def test_one_query_serves_all(feed, page, path, monkeypatch):
    """Twenty viewers cost as many queries as one."""
    readers = [Reader(feed) for _ in range(20)]
    await until(lambda: all(one.of("hello") for one in readers))
    asked = []
    real = module.news_since
    monkeypatch.setattr(module, "news_since", lambda *values: asked.append(values[1:3]) or real(*values))
    put(path, [a_trace(4)])
    await until(lambda: all(one.seqs() for one in readers))

    assert len([places for places in asked if places[0] < places[1]]) == 1
    for one in readers:
        await one.leave()


async def test_crowd_that_comes_back_is_read_once(feed, path, monkeypatch):
    """Twenty that wait at the same place get the same, by one query; one that waits elsewhere gets its own."""
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    epoch = one.last_id.partition(":")[0]
    await one.leave()
    await until(lambda: feed._task is None)
    put(path, [a_trace(4)])
    asked = []
    real = module.news_since
    monkeypatch.setattr(module, "news_since", lambda *values: asked.append(values[1:3]) or real(*values))
    crowd = [Reader(feed, one.last_id) for _ in range(20)]
    other = Reader(feed, f"{epoch}:2")
    await until(lambda: all(reader.seqs() for reader in (*crowd, other)))

    assert sorted(places for places in asked if places[0] < places[1]) == [(2, 4), (3, 4)]
    assert ([reader.seqs() for reader in crowd], other.seqs()) == ([[4]] * 20, [3, 4])
    for reader in (*crowd, other):
        await reader.leave()


async def test_trimmed_run_is_no_other_store(feed, path):
    """The oldest run's row goes with time, and the database is the same: streams go on, and resume."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(rows.MARK_DATABASE)
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM runs")
    put(path, [a_trace(4)], runs=[("later", "ed25519:x")])
    await until(one.seqs)
    again = Reader(feed, one.last_id)
    await until(lambda: again.of("hello"))

    assert (one.of("reset"), again.of("reset"), one.seqs()) == ([], [], [4])
    for reader in (one, again):
        await reader.leave()


async def test_database_made_anew_in_the_same_file_is_another(feed, path):
    """A file system may give a new file the inode of the old one: the number that its writer drew differs."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(rows.MARK_DATABASE)
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE state SET value = value + 1 WHERE name = 'epoch'")
    await until(lambda: one.of("reset"))

    assert one.of("reset") == [{"reason": "the store was made anew"}]
    await one.leave()


async def test_nothing_is_read_while_nobody_looks(feed, page):
    """The task ends with the last viewer, and its connections are closed."""
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    assert feed._task is not None
    await one.leave()
    await until(lambda: feed._task is None and page.live._connection is None)

    two = Reader(feed)  # and begins again with the next
    await until(lambda: two.of("hello"))
    await two.leave()


async def test_slow_viewer_gets_a_reset(feed, path):
    """Its queue is bounded: it gets a reset instead of what it missed, and then goes on."""
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    slow = Viewer(one.holder, is_local=True, cursor=None)
    feed.join(slow)
    await until(lambda: slow._queue)
    for number in range(4, 30):
        put(path, [a_trace(number)])
        await until(lambda number=number: one.seqs()[-1:] == [number])
    waiting = [await slow.get(0) for _ in range(len(slow._queue))]

    assert len(waiting) <= module._MAX_QUEUED
    assert re.match(rb"id: \w+:\d+\nevent: reset\n", waiting[0])
    assert b"\nevent: hello" not in b"".join(waiting)
    assert one.of("reset") == []
    slow.end()
    feed.leave(slow)
    await one.leave()


async def test_revoking_ends_streams(feed, page):
    """Those whose secret ended; with sharing over, those from elsewhere."""
    page.grants.share(60)
    local, remote = Reader(feed), Reader(feed, is_local=False)
    await until(lambda: local.of("hello") and remote.of("hello"))
    page.grants._seen[1].shared_until_us = 0
    await asyncio.wait_for(remote.task, 60)
    assert not local.viewer.is_over
    page.grants.revoke()
    await asyncio.wait_for(local.task, 60)
    await until(lambda: feed._task is None)


async def test_stop_ends_streams_and_refuses_new_ones(feed):
    """A node that stops waits for no stream."""
    one = Reader(feed)
    await until(lambda: one.of("hello"))
    feed.end()
    await asyncio.wait_for(one.task, 60)

    with pytest.raises(WireError) as refused:
        feed.join(Viewer("x", is_local=True, cursor=None))
    assert refused.value.code == "partition"
    await until(lambda: feed._task is None)


async def test_number_of_viewers_is_bounded(feed):
    """The next one is refused, and welcome once another has left."""
    viewers = [Viewer("x", is_local=True, cursor=None) for _ in range(MAX_VIEWERS)]
    for viewer in viewers:
        feed.join(viewer)
    with pytest.raises(WireError) as refused:
        feed.join(Viewer("x", is_local=True, cursor=None))
    assert refused.value.code == "capacity_exceeded"
    feed.leave(viewers[0])
    feed.join(viewers[0])
    for viewer in viewers:
        feed.leave(viewer)
    await until(lambda: feed._task is None)
