"""An unusable database is moved aside unchanged, its readable rows are salvaged, and the node starts."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest
from support.records import a_log, a_trace

from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import StoreError
from hearthnet.forensics import box as layout
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.store import rows
from hearthnet.observability.store.budget import damage_in
from hearthnet.observability.store.merge import merge
from hearthnet.observability.store.recovery.quarantine import (
    Salvage,
    holds_foreign_tables,
    keep_within,
    move_aside,
    quarantined,
    salvage,
)
from hearthnet.observability.store.rows import TRACES as TABLE
from hearthnet.observability.telemetry import DATABASE

TRACES = 3_000


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """The bytes of a database with 3,000 traces and 500 log records."""
    from hearthnet.config import ObservabilityConfig

    directory = tmp_path_factory.mktemp("healthy")
    with telemetry.open(ObservabilityConfig(data_dir=directory, log_dir=None)) as t:
        for number in range(TRACES):
            with trace.new_trace("a.b"), trace.span("step", n=number):
                pass
        for number in range(500):
            get_logger("hearthnet.x").warning("careful", extra={"n": number})
        assert t.flush()
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        connection.execute("VACUUM")  # so that the damage hits rows and not the reserve
    return (directory / DATABASE).read_bytes()


@pytest.fixture
def place(observability, healthy):
    """Replaces the database with these bytes; returns its path."""
    observability.data_dir.mkdir(mode=0o700)
    path = observability.data_dir / DATABASE
    path.write_bytes(healthy)
    return path


def stored(path) -> int:
    """Returns how many of the 3,000 traces are present."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute("SELECT count(*) FROM traces WHERE capability = 'a.b'").fetchone()[0]


def missing(path) -> int:
    """Returns how many traces are recorded as lost."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT total(count) FROM gaps WHERE kind = 'trace'").fetchone()[0]


def opens(observability) -> None:
    """Opens telemetry on a fresh database and records."""
    with telemetry.open(observability) as t:
        assert t.error is None
        with trace.new_trace("after.it"):
            pass
        assert t.flush()


def messages(observability) -> str:
    """Returns the whole JSON log."""
    return "".join(path.read_text() for path in observability.log_dir.glob("*.log"))


@pytest.mark.parametrize(
    ("pages", "at_least"), [(1, 2_900), (5, 2_000)], ids=["one page overwritten", "five pages overwritten"]
)
def test_overwritten_pages_cost_what_lies_on_them(observability, place, pages, at_least):
    """With random bytes over one page or five, the rest is salvaged, and the damaged file kept and named in the log."""
    chance = random.Random(7)
    content = bytearray(place.read_bytes())
    middle = len(content) // 4096 // 3
    for number in range(pages):
        at = (middle + number) * 4096
        content[at : at + 4096] = chance.randbytes(4096)
    place.write_bytes(content)

    opens(observability)

    assert at_least <= stored(place) < TRACES + 1
    assert missing(place) == TRACES - stored(place)
    (kept,) = quarantined(place)
    assert kept.read_bytes() == bytes(content)
    assert "telemetry.db was moved aside" in messages(observability)


@pytest.mark.parametrize(
    "content",
    [
        b"this is no database, " * 1_000,
        bytes(8_192),
        os.urandom(50_000),
    ],
    ids=["text", "zeros", "noise"],
)
def test_file_that_is_no_database_is_moved_aside(observability, place, content):
    """Any file with the database's name is kept under another name, and a new database created."""
    place.write_bytes(content)

    opens(observability)

    assert stored(place) == 0
    assert [path.read_bytes() for path in quarantined(place)] == [content]


@pytest.mark.parametrize("share", [0.5, 0.95, 0.02], ids=["half", "nearly all", "two pages"])
def test_truncated_database_is_moved_aside(observability, place, share):
    """A truncated database is damaged; the node starts on a new one."""
    content = place.read_bytes()
    place.write_bytes(content[: int(len(content) * share)])

    opens(observability)

    assert len(quarantined(place)) == 1
    assert stored(place) >= 0


def test_header_of_zeros_is_moved_aside(observability, place):
    """A file whose first page is zeros is not a database."""
    place.write_bytes(bytes(100) + place.read_bytes()[100:])

    opens(observability)

    assert len(quarantined(place)) == 1


def test_empty_file_is_a_new_database(observability, place):
    """An empty file is a valid new database: nothing is moved."""
    place.write_bytes(b"")

    opens(observability)

    assert quarantined(place) == []


def test_folder_in_its_place_is_moved_aside(observability, place):
    """A folder with the database's name does not keep the node from recording."""
    place.unlink()
    place.mkdir()
    (place / "something").write_text("x")

    opens(observability)

    assert [path.is_dir() for path in quarantined(place)] == [True]


@pytest.mark.parametrize(
    ("change", "salvaged"),
    [
        ("PRAGMA application_id = 7", TRACES),
        ("DROP VIEW recent", TRACES),
        ("DROP TABLE gaps", TRACES),
        ("DROP TABLE traces", 0),
    ],
)
def test_foreign_and_incomplete_databases_are_moved_aside(observability, place, change, salvaged):
    """A database of another program, or without a table or view, is kept unchanged; readable rows are salvaged."""
    with closing(sqlite3.connect(place)) as connection:
        connection.executescript(change)

    opens(observability)

    assert stored(place) == salvaged
    assert len(quarantined(place)) == 1


@pytest.mark.parametrize("change", ["", "ALTER TABLE traces ADD COLUMN of_the_future TEXT;"])
def test_database_of_a_newer_version_is_left_alone(observability, place, change):
    """An older program neither moves nor changes it, says so, and keeps its own records in its box meanwhile."""
    with closing(sqlite3.connect(place)) as connection:
        connection.executescript(f"{change} PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)")
    before = place.read_bytes()
    with telemetry.open(observability) as t:
        with trace.new_trace("of.older"):
            pass
        assert "has schema version 99" in t.error

    assert quarantined(place) == []
    assert place.read_bytes() == before
    (box,) = layout.boxes_in(place.parent)
    assert [layout.fields(frame, "traces")["capability"] for frame in layout.read_box(box).traces] == ["of.older"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("", (1_700_000_000_000_000, '[{"ts_us":1}]', 7, 4_096, "x.py", "node")),
        (
            "".join(f"ALTER TABLE runs DROP COLUMN {name};" for name in ("vitals", "commits", "program", "role")),
            (1_700_000_000_000_000, None, None, 4_096, None, "node"),
        ),
    ],
    ids=["of this schema", "of an older one"],
)
def test_what_is_known_of_runs_is_salvaged(observability, place, change, told):
    """Vitals, wear and program of runs are salvaged too, if the damaged database has columns; the role is derived."""
    with closing(sqlite3.connect(place)) as connection:
        views = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'").fetchall()
        connection.executescript("".join(f"DROP VIEW {name};" for (name,) in views))
        connection.execute(
            "UPDATE runs SET last_seen_us = 1700000000000000, commits = 7, written_bytes = 4096, vitals = ?,"
            " node_id = 'ed25519:n', program = 'x.py', role = 'node'",
            ('[{"ts_us":1}]',),
        )
        connection.commit()
        connection.executescript(change)
        run_id = connection.execute("SELECT run_id FROM runs").fetchone()[0]

    opens(observability)

    with closing(sqlite3.connect(place)) as connection:
        row = connection.execute(
            "SELECT last_seen_us, vitals, commits, written_bytes, program, role FROM runs WHERE run_id = ?", (run_id,)
        ).fetchone()
    assert row == told


def test_foreign_wal_is_moved_aside_with_it(observability, place, tmp_path):
    """A -wal of another database is moved aside too; none is left beside the new one."""
    wal = place.with_name(f"{DATABASE}-wal")
    with closing(sqlite3.connect(tmp_path / "other.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000));")
        shutil.copy(tmp_path / "other.db-wal", wal)

    opens(observability)

    assert stored(place) >= 0
    kept = {path.name for path in observability.data_dir.iterdir() if ".corrupt-" in path.name}
    assert all(".corrupt-" in name for name in kept)


@pytest.mark.parametrize("shm", [None, b"\xff" * 32_768], ids=["missing", "noise"])
def test_shm_of_any_kind_costs_nothing(observability, place, shm):
    """The -shm file is rebuilt."""
    if shm is not None:
        place.with_name(f"{DATABASE}-shm").write_bytes(shm)

    opens(observability)

    assert stored(place) == TRACES
    assert quarantined(place) == []


def test_database_that_cannot_be_moved_aside_is_an_error(tmp_path, monkeypatch):
    """With both reasons; the file stays as it is."""
    path = tmp_path / DATABASE
    path.write_bytes(b"damaged")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(path), "rename", refuse)
    with pytest.raises(StoreError, match=r"cannot be used \(is damaged\) nor moved aside: Permission denied"):
        move_aside(path, "is damaged")

    assert path.read_bytes() == b"damaged"
    assert quarantined(path) == []


def test_one_quarantined_database_is_kept(observability, place):
    """The next quarantined database replaces the last: quarantine is part of the budget."""
    for number in range(3):
        place.write_bytes(b"no database %d" % number * 100)
        opens(observability)
        # Names have a resolution of a second, so two databases may get the same one.
    (kept,) = quarantined(place)
    assert kept.read_bytes().startswith(b"no database 2")


def test_quarantine_is_within_the_budget(observability, place):
    """A damaged database larger than its share of max_disk_mb is salvaged, logged, and deleted."""
    small = observability.model_copy(update={"max_disk_mb": 64})
    with place.open("r+b") as file:
        file.truncate(20_000_000)
        file.write(b"no header at all")

    opens(small)

    assert quarantined(place) == []
    assert "too large to keep" in messages(observability)


def test_damage_found_while_running_is_healed(observability, place):
    """If pages are overwritten under a running node, it moves the file aside and keeps all traces of its own run."""
    with telemetry.open(observability) as t:
        for _ in range(50):
            with trace.new_trace("of.this.run"):
                pass
        assert t.flush()
        with closing(sqlite3.connect(place)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        forget = t._thread.writer._db.execute("PRAGMA shrink_memory")  # as under memory pressure
        asyncio.run_coroutine_threadsafe(forget, t._thread.pacer.loop).result()
        # As a failing card does: without SQLite's knowledge, and not in the writer's page cache.
        size = place.stat().st_size
        fd = os.open(place, os.O_WRONLY)
        os.pwrite(fd, os.urandom(size - 4096), 4096)
        # Not closed here: closing would drop the locks that SQLite holds for this process.
        for _ in range(50):
            with trace.new_trace("of.this.run"):
                pass
            t.flush(0.5)
            if quarantined(place):
                break
        assert t.flush()
    os.close(fd)

    assert len(quarantined(place)) == 1
    with closing(sqlite3.connect(place)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ((count, distinct),) = connection.execute(
            "SELECT count(*), count(DISTINCT seq) FROM traces WHERE capability = 'of.this.run'"
        ).fetchall()
    assert count == distinct >= 51


@pytest.mark.parametrize(
    ("addition", "holds"),
    [("CREATE INDEX mine ON traces (result)", False), ("CREATE VIEW mine AS SELECT 1", False),
     ("CREATE TABLE mine (text)", True)],
)  # fmt: skip
def test_only_tables_of_others_are_worth_keeping(tmp_path, addition, holds):
    """What has no rows of its own is in no other file, and lost with nothing."""
    path = tmp_path / DATABASE
    with closing(open_database(path, TELEMETRY)) as connection:
        connection.execute(addition)

    assert holds_foreign_tables(path) is holds


def test_rows_that_the_wal_has_damaged_are_read_from_the_file(tmp_path, monkeypatch):
    """What cannot be read with the WAL is as it was before; what can is as it is now."""
    for name in ("telemetry.db", "before.db"):
        with closing(open_database(tmp_path / name, TELEMETRY._replace(reserve_bytes=0))) as connection:
            capability = "now.now" if name == "telemetry.db" else "be.fore"
            records = [
                a_trace(number, capability=capability, extras=b'{"v":"%b"}' % (b"x" * 900)) for number in range(1, 301)
            ]
            merge(connection, records)
            connection.execute("VACUUM")
    with (tmp_path / "telemetry.db").open("r+b") as file:
        file.seek(40 * 4_096)
        file.write(b"\xa5" * 4_096)
    connect = sqlite3.connect

    def without_wal(name, **how):
        return connect(name.replace("telemetry.db", "before.db") if "immutable" in name else name, **how)

    monkeypatch.setattr(sqlite3, "connect", without_wal)
    salvaged = salvage(tmp_path / "telemetry.db")
    found = salvaged.traces

    assert salvaged.held == (300, 0)
    assert sorted(found) == list(range(1, 301))
    kinds = [found[seq].capability for seq in sorted(found)]
    assert 0 < kinds.count("be.fore") < 20
    assert kinds[0] == kinds[-1] == "now.now"


def test_database_that_cannot_be_opened_with_its_wal_is_read_without(tmp_path, monkeypatch):
    """On a disk where SQLite may make no -shm, say: what the file has is better than nothing."""
    path = tmp_path / "telemetry.db"
    with closing(open_database(path, TELEMETRY._replace(reserve_bytes=0))) as connection:
        merge(connection, [a_trace(1), a_log(2)])
    connect = sqlite3.connect

    def refuse(name, **how):
        if "mode=ro" in name:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(name, **how)

    monkeypatch.setattr(sqlite3, "connect", refuse)
    found = salvage(path)

    assert (list(found.traces), list(found.logs), found.held) == ([1], [2], (1, 1))


def test_each_table_is_salvaged_and_what_it_lacks_is_told(tmp_path):
    """Rows of every table; a column that is there under another name is read, and named."""
    path = tmp_path / "telemetry.db"
    with closing(open_database(path, TELEMETRY._replace(reserve_bytes=0))) as connection:
        merge(connection, [a_trace(1), a_log(2), a_log(3)])
        connection.execute(rows.INSERT_RUN, ("run", None, "1", 7, None, 1_000, "x.py", "node"))
    whole = salvage(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('ALTER TABLE logs RENAME COLUMN exc TO "select ""it"""')
    renamed = salvage(path)

    assert [len(found) for found in (whole.traces, whole.logs, whole.runs, whole.gaps)] == [1, 2, 1, 0]
    assert (whole.held, whole.missing) == ((1, 2), [])
    assert (len(renamed.logs), renamed.missing) == (2, ["logs.exc"])
    nothing = salvage(tmp_path / "nothing.db")
    assert (nothing.missing, nothing.held, nothing.traces) == ([], (0, 0), {})


@pytest.mark.parametrize("value", ["5", "5.5"])
def test_number_in_place_of_text_costs_its_row(tmp_path, value):
    """JSON it may be: only a column of any type keeps it as a number. The rows beside it are read."""
    path = tmp_path / "telemetry.db"
    with closing(open_database(path, TELEMETRY._replace(reserve_bytes=0))) as connection:
        merge(connection, [a_log(1), a_log(2), a_log(3)])
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "ALTER TABLE logs RENAME COLUMN extras TO before; ALTER TABLE logs ADD COLUMN extras ANY;"
            f"UPDATE logs SET extras = CASE seq WHEN 2 THEN {value} ELSE before END"
        )

    assert sorted(salvage(path).logs) == [1, 3]


def test_what_was_salvaged_is_in_the_new_database_and_told(tmp_path, logged):
    """Rows keep their seq; gaps get one of their own, above them."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with closing(open_database(old, TELEMETRY._replace(reserve_bytes=0))) as connection:
        merge(connection, [a_trace(1), a_log(2), a_log(3)])
        connection.execute(rows.INSERT_RUN, ("run", None, "1", 7, None, 1_000, "x.py", "node"))
        connection.execute(rows.END_RUN, (2_000, rows.CLEAN, "run"))
        for seq, count in ((4, 10), (5, 20)):
            connection.execute(rows.INSERT_GAP, (seq, seq, "trace", "poison", count, "run"))
    with closing(open_database(new, TELEMETRY._replace(reserve_bytes=0))) as connection:
        salvage(old).insert(connection)
        found = [connection.execute(f"SELECT seq FROM {name}").fetchall() for name in ("traces", "logs")]
        gaps = connection.execute("SELECT seq, ts_us, kind, reason, count, run_id FROM gaps ORDER BY seq").fetchall()
        runs = connection.execute("SELECT run_id, ended_us, end_reason, role FROM runs").fetchall()

    assert found == [[(1,)], [(2,), (3,)]]
    assert gaps == [(4, 4, "trace", "poison", 10, "run"), (5, 5, "trace", "poison", 20, "run")]
    assert runs == [("run", 2_000, rows.CLEAN, "node")]
    (told,) = [record for record in logged if record.getMessage() == "telemetry was salvaged"]
    assert (told.traces, told.logs, told.without_columns) == (1, 2, [])


def test_cursor_of_an_export_begins_anew_where_no_row_could_be_read(tmp_path):
    """The first row of the new database has seq 1: behind the cursor it would not be sent."""
    with closing(open_database(tmp_path / "new.db", TELEMETRY._replace(reserve_bytes=0))) as connection:
        Salvage(exports={"traces": (500, 7)}).insert(connection)
        found = dict(connection.execute("SELECT name, value FROM state WHERE name GLOB 'otlp.*'"))

    assert found == {"otlp.traces": 0, "otlp.traces.lost": 7}


@pytest.mark.parametrize(("limit", "is_kept"), [(1_001, True), (1_000, True), (999, False)])
def test_quarantine_of_just_its_share_is_kept(tmp_path, limit, is_kept):
    """The -wal beside it counts."""
    aside = tmp_path / f"{DATABASE}.corrupt-20260101T000000Z"
    aside.write_bytes(b"x" * 600)
    aside.with_name(f"{aside.name}-wal").write_bytes(b"x" * 400)
    keep_within(tmp_path / DATABASE, limit)

    assert (quarantined(tmp_path / DATABASE), len(list(tmp_path.iterdir()))) == (([aside], 2) if is_kept else ([], 0))


def test_bit_that_flips_in_the_schema_is_only_damage(observability, place):
    """SQLite cites it in words that are not UTF-8 either; the database is moved aside, and the node starts."""
    content = bytearray(place.read_bytes())
    content[content.index(b"CREATE TABLE traces") + len("CREATE T")] ^= 0x80
    place.write_bytes(content)
    assert not holds_foreign_tables(place)
    assert salvage(place) == Salvage()
    assert "malformed database schema" in damage_in(place)

    opens(observability)
    assert [path.read_bytes() for path in quarantined(place)] == [content]


def test_folder_in_quarantine_makes_room_for_the_next(tmp_path):
    """It is removed with all that is in it."""
    path = tmp_path / DATABASE
    for _ in range(2):
        path.mkdir()
        (path / "file").touch()
        moved = move_aside(path, "it is a folder")

    assert quarantined(path) == [moved]
    assert list(tmp_path.glob(f"{DATABASE}*")) == [moved]


@pytest.mark.parametrize(("cursor", "kept"), [(2_000, 2_000), (10**9, "the last")])
def test_cursors_of_the_export_are_salvaged(observability, place, cursor, kept):
    """Rows keep their seq, so what was sent is not sent again; a cursor behind all of them would stop the export."""
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("INSERT INTO state VALUES ('otlp.traces', ?)", (cursor,))
        connection.execute("DROP VIEW recent")  # then it does not fit
        connection.commit()
    assert salvage(place).exports == {"traces": (cursor, 0)}
    opens(observability)

    with closing(sqlite3.connect(place)) as connection:
        (found,) = connection.execute("SELECT value FROM state WHERE name = 'otlp.traces'").fetchone()
        (last,) = connection.execute("SELECT value FROM state WHERE name = 'seq'").fetchone()
    assert found == kept or (kept == "the last" and TRACES <= found <= last)


def test_losses_of_the_export_are_salvaged(observability, place, monkeypatch):
    """Those that nobody was told of, and those for which the new database has no space."""
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("INSERT INTO state VALUES ('otlp.traces', 0), ('otlp.traces.lost', 7)")
        connection.execute("DROP VIEW recent")
        connection.commit()
        ((held,),) = connection.execute("SELECT count(*) FROM traces")
    monkeypatch.setattr(TABLE, "size", held - 10)
    opens(observability)

    with closing(sqlite3.connect(place)) as connection:
        (lost,) = connection.execute("SELECT value FROM state WHERE name = 'otlp.traces.lost'").fetchone()
    assert lost == 7 + 10
