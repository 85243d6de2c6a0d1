"""The event log: a community's first event, the Lamport clock, and failed appends that leave nothing."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from dataclasses import replace

import pytest

from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import HearthNetError, IdentityError, StoreError
from hearthnet.events.event_log import EVENTS_FILE, EventLog
from hearthnet.identity.community import community_dir
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import write_manifest
from hearthnet.node import initialise
from hearthnet.observability.records.ids import is_trace_id

COLUMNS = [
    "event_id",
    "community_id",
    "schema_version",
    "lamport",
    "wall_clock",
    "author",
    "event_type",
    "data",
    "signature",
    "received_at",
]


@pytest.fixture
def author():
    """The author's key pair."""
    return KeyPair.generate()


@pytest.fixture
def path(tmp_path):
    """The log's path."""
    return tmp_path / "community" / EVENTS_FILE


@pytest.fixture
def events(path):
    """An open log."""
    with EventLog(path) as log:
        yield log


def rows(path, query: str) -> list[tuple]:
    """Reads the file from another process."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def genesis_path(config, made):
    """The event log of a new node."""
    return community_dir(config.community.state_dir, made.manifest.community_id) / EVENTS_FILE


def test_genesis_writes_one_signed_event(config):
    """`initialise` creates key, manifest and exactly one `community.created`, signed by the root, at Lamport time 1."""
    made = initialise(config, "Maple Street")
    with EventLog(genesis_path(config, made)) as log:
        (event,) = log.events(made.manifest.community_id)

    assert made.is_new
    assert (event.event_type, event.lamport, event.schema_version) == ("community.created", 1, 1)
    assert event.author == made.node_id == event.community_id
    assert event.data["name"] == "Maple Street"
    assert event.data["created_at"] == made.manifest.created_at
    assert event.is_valid()
    assert made.manifest.head_lamport == event.lamport


def test_initialising_again_changes_nothing(config):
    """A second call changes nothing: same key, same manifest, no second event."""
    first = initialise(config, "Maple Street")
    second = initialise(config, "Elm Street")
    with EventLog(genesis_path(config, first)) as log:
        assert log.size(first.manifest.community_id) == 1

    assert (second.node_id, second.manifest, second.is_new) == (first.node_id, first.manifest, False)


def test_crash_before_the_manifest_adds_no_second_genesis(config):
    """After a crash between event and manifest, the manifest is written and the one event kept."""
    first = initialise(config, "Maple Street")
    path = genesis_path(config, first)
    (path.parent / "manifest.json").unlink()
    second = initialise(config, "Maple Street")
    with EventLog(path) as log:
        assert log.size(first.manifest.community_id) == 1

    assert second.is_new
    assert second.manifest.is_valid()
    assert second.node_id == first.node_id


def test_manifest_made_after_a_crash_agrees_with_the_event(config):
    """The signed first event decides the community's name and time, not the repeated command."""
    first = initialise(config, "Maple Street")
    (genesis_path(config, first).parent / "manifest.json").unlink()
    second = initialise(config, "Elm Street")
    with EventLog(genesis_path(config, first)) as log:
        (event,) = log.events(first.manifest.community_id)

    assert (event.data["name"], event.data["created_at"]) == (second.manifest.name, second.manifest.created_at)


def test_tampered_manifest_is_not_replaced(config):
    """Untrusted files are an error; they are not replaced."""
    made = initialise(config, "Maple Street")
    folder = genesis_path(config, made).parent
    write_manifest(made.manifest.model_copy(update={"name": "Elm Street"}), folder)

    with pytest.raises(IdentityError, match="not signed"):
        initialise(config, "Maple Street")


def test_missing_key_is_not_replaced_where_that_is_forbidden(config):
    """With `auto_generate` off, a missing key is an error and none is created."""
    strict = config.model_copy(update={"identity": config.identity.model_copy(update={"auto_generate": False})})

    with pytest.raises(IdentityError, match="no device key"):
        initialise(strict, "Maple Street")
    assert not config.identity.keys_dir.exists()


def test_own_genesis_is_not_written_into_another_community(config):
    """A missing manifest of a configured community is an error; no own community is created there."""
    other = KeyPair.generate().node_id
    update = {"community": config.community.model_copy(update={"community_id": other})}

    with pytest.raises(HearthNetError):
        initialise(config.model_copy(update=update), "Maple Street")
    assert not (community_dir(config.community.state_dir, other) / "manifest.json").exists()


def test_columns_are_those_of_the_protocol(events, path):
    """The schema has the columns that other nodes use, and the index for replay."""
    assert [row[1] for row in rows(path, "PRAGMA table_info(events)")] == COLUMNS
    assert [row[1] for row in rows(path, "PRAGMA table_info(clock)")] == ["community_id", "lamport"]
    assert [row[2] for row in rows(path, "PRAGMA index_info(events_in_order)")] == [
        "community_id",
        "lamport",
        "event_id",
    ]
    assert events.size("c") == 0


def test_append_ticks_the_clock(events, author):
    """Each event has the next Lamport time, and the head is that of the last one."""
    assert events.head("c") == 0
    made = [events.append("c", "member.noted", {"n": number}, author) for number in range(3)]

    assert [event.lamport for event in made] == [1, 2, 3]
    assert (events.head("c"), events.size("c")) == (3, 3)
    assert events.events("c") == made


def test_communities_have_clocks_of_their_own(events, author):
    """Each community has its own clock."""
    events.append("a", "member.noted", {}, author)
    events.append("a", "member.noted", {}, author)

    assert events.append("b", "member.noted", {}, author).lamport == 1
    assert [event.community_id for event in events.events("b")] == ["b"]


def test_clock_goes_on_after_reopening(path, author):
    """The clock never goes backwards across a restart."""
    with EventLog(path) as log:
        log.append("c", "member.noted", {}, author)
    with EventLog(path) as log:
        assert log.append("c", "member.noted", {}, author).lamport == 2


def test_event_in_its_row(events, path, author):
    """A ULID, RFC 3339 times, canonical data, and a signature that verifies after reading."""
    event = events.append("c", "member.noted", {"b": 1.0, "a": "ä"}, author)
    (row,) = rows(path, "SELECT * FROM events")
    stored = dict(zip(COLUMNS, row, strict=True))

    assert is_trace_id(stored["event_id"])
    assert stored["schema_version"] == 1
    assert stored["data"] == '{"a":"ä","b":1}'
    assert all(re.fullmatch(r"\d{4}-.*T.*Z", stored[name]) for name in ("wall_clock", "received_at"))
    assert stored["signature"] == event.signature
    assert events.events("c")[0].is_valid()


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"n": 2}},
        {"lamport": 9},
        {"event_type": "member.removed"},
        {"community_id": "d"},
        {"wall_clock": "2020-01-01T00:00:00Z"},
        {"event_id": "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"},
        {"schema_version": 2},
        {"author": KeyPair.generate().node_id},
        {"signature": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_tampered_event_is_not_valid(events, author, change):
    """The signature covers every field that the author wrote."""
    event = events.append("c", "member.noted", {"n": 1}, author)

    assert event.is_valid()
    assert not replace(event, **change).is_valid()


def test_time_of_receipt_is_not_signed(events, author):
    """`received_at` is not signed."""
    event = events.append("c", "member.noted", {}, author)

    assert replace(event, received_at="").is_valid()


@pytest.mark.parametrize("data", [{"n": float("nan")}, {"n": b"bytes"}, {1: 2}, {"n": "\ud800"}])
def test_data_that_cannot_be_signed_leaves_nothing(events, path, author, data):
    """A failed append leaves neither tick nor row; the next one works."""
    with pytest.raises(ValueError):  # noqa: PT011  # each has a message of its own
        events.append("c", "member.noted", data, author)

    assert rows(path, "SELECT count(*) FROM events") == [(0,)]
    assert rows(path, "SELECT count(*) FROM clock") == [(0,)]
    assert events.append("c", "member.noted", {}, author).lamport == 1


def test_failed_insert_leaves_nothing(events, path, author):
    """If the insert fails after the tick, the tick is rolled back too."""
    events.append("c", "member.noted", {}, author)
    events._connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    with pytest.raises(StoreError, match="no room"):
        events.append("c", "member.noted", {}, author)
    events._connection.execute("DROP TRIGGER refuse")

    assert rows(path, "SELECT lamport FROM clock") == [(1,)]
    assert events.append("c", "member.noted", {}, author).lamport == 2


def test_locked_log_is_reported(events, path, author):
    """An append fails with a store error while another process writes, and works afterwards."""
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            events.append("c", "member.noted", {}, author)
        with pytest.raises(StoreError, match="locked"):
            events.check_writable()
        other.execute("ROLLBACK")
    finally:
        other.close()

    assert events.append("c", "member.noted", {}, author).lamport == 1


def test_check_of_writing_leaves_no_trace(events, path):
    """The check writes the clock and rolls back."""
    events.check_writable()

    assert rows(path, "SELECT count(*) FROM clock") == [(0,)]


def test_file_that_is_no_event_log_is_refused(path):
    """A file that is not a database is an error, and is not changed."""
    path.parent.mkdir()
    path.write_text("dear diary, " * 100)

    with pytest.raises(StoreError, match="cannot be used"):
        EventLog(path)
    assert path.read_text() == "dear diary, " * 100


def test_telemetry_database_is_no_event_log(tmp_path, path):
    """HearthNet's other kind of database is refused."""
    open_database(tmp_path / "telemetry.db", TELEMETRY).close()
    path.parent.mkdir()
    shutil.copy(tmp_path / "telemetry.db", path)

    with pytest.raises(StoreError, match="database of HearthNet"):
        EventLog(path)


def test_replay_is_in_causal_order(events, path, author):
    """Events are ordered by Lamport time, then id, whatever the order of rows."""
    for number in range(3):
        events.append("c", "member.noted", {"n": number}, author)
    events._connection.execute("UPDATE events SET lamport = 10 - lamport")

    assert [event.lamport for event in events.events("c")] == [7, 8, 9]
    assert json.loads(rows(path, "SELECT data FROM events ORDER BY lamport")[0][0]) == {"n": 2}


def test_reading_creates_and_changes_nothing(path, author):
    """Size and head are read of a log that is there; a missing one is an error, and stays missing."""
    with pytest.raises(StoreError, match="does not exist"):
        EventLog(path, is_read_only=True)
    assert not path.exists()
    with EventLog(path) as events:
        events.append("c", "member.noted", {}, author)
    with EventLog(path, is_read_only=True) as events:
        assert (events.size("c"), events.head("c")) == (1, 1)
        with pytest.raises(StoreError, match="readonly"):
            events.append("c", "member.noted", {}, author)


def test_log_that_is_none_is_an_error_where_it_is_read(path):
    """SQLite looks into the file with the first query."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database, whatever its name says" * 100)
    with EventLog(path, is_read_only=True) as events, pytest.raises(StoreError, match="not a database"):
        events.size("c")
