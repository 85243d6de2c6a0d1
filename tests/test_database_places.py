"""Databases in odd places: at no file, at a very long path, on a read-only disk, with another's files beside them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.strange import STRANGE, plant

from hearthnet.database import EVENTS, TELEMETRY, connect_read_only, open_database, store_error
from hearthnet.errors import StoreError, UnusableStoreError
from hearthnet.observability.store.snapshot import snapshot

NO_RESERVE = TELEMETRY._replace(reserve_bytes=0)


@pytest.fixture
def path(tmp_path) -> Path:
    """A telemetry database with a run, closed."""
    made = tmp_path / "data" / "telemetry.db"
    with closing(open_database(made, NO_RESERVE)) as connection:
        add_run(connection, "first")
    return made


def add_run(connection: sqlite3.Connection, run_id: str) -> None:
    """Inserts a row."""
    connection.execute(
        "INSERT INTO runs (run_id, version, pid, started_us, role) VALUES (?, '1', 1, 1, 'library')", (run_id,)
    )


def runs(path: Path) -> list[str]:
    """What a reader sees."""
    with closing(connect_read_only(path)) as connection:
        return [row[0] for row in connection.execute("SELECT run_id FROM runs ORDER BY run_id")]


@contextmanager
def read_only(folder: Path):
    """Mounts a folder over itself, read-only, as a backup or a container has it."""
    mounted = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("open_it", [lambda path: open_database(path, NO_RESERVE), connect_read_only])
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
def test_nothing_but_files_is_given_to_sqlite(path, ending, kind, open_it):
    """SQLite would wait for a pipe and write into a device; the error names the file and moves it aside."""
    strange = plant(path.with_name(path.name + ending), kind)

    with pytest.raises(StoreError, match=r"it is a (pipe|socket|device|folder), not a file") as caught:
        open_it(path)
    assert isinstance(caught.value, UnusableStoreError) is (ending == "")
    assert str(strange) in caught.value.message
    assert caught.value.hint == f"move it aside: mv {strange} {strange}.aside"


def test_link_to_nothing_beside_it_is_refused(path):
    """SQLite would make the file that it leads to, wherever that is."""
    plant(path.with_name("telemetry.db-wal"), "link to nothing")

    with pytest.raises(StoreError, match=r"telemetry\.db-wal cannot be used: it is a link to nothing"):
        open_database(path, NO_RESERVE)


@pytest.mark.parametrize("open_it", [lambda path: open_database(path, NO_RESERVE), connect_read_only])
@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_link_beside_it_is_named(path, tmp_path, ending, open_it):
    """SQLite does not follow one, and would say that it cannot open the database, in a folder that can be written."""
    (tmp_path / "elsewhere").write_text("precious")
    link = path.with_name(path.name + ending)
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StoreError) as caught:
        open_it(path)
    assert caught.value.message == f"{link} cannot be used: it is a link, which SQLite does not follow"
    assert caught.value.hint == f"move it aside: mv {link} {link}.aside"
    assert (tmp_path / "elsewhere").read_text() == "precious"


UNFINISHED = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("CREATE TABLE first (x)")
db.execute("BEGIN IMMEDIATE")
for _ in range(100):
    db.execute("INSERT INTO first VALUES (randomblob(5000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_database_that_was_not_finished_is_no_folder_without_rights(tmp_path):
    """A process was killed in its first moments: a reader may not take back what it began, the next start does."""
    path = tmp_path / "telemetry.db"
    subprocess.run([sys.executable, "-c", UNFINISHED, str(path)], check=False)
    assert path.with_name("telemetry.db-journal").stat().st_size > 0

    with pytest.raises(StoreError, match="killed while it made it, and left its -journal") as caught:
        connect_read_only(path)
    assert "the next start" in caught.value.hint
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM first").fetchone() == (0,)


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_empty_file_made_by_hand_becomes_private(tmp_path, umask):
    """Its -wal and -shm get its mode, and there is nothing in it yet that others were meant to read."""
    path = tmp_path / "telemetry.db"
    held = os.umask(umask)
    try:
        path.touch()
    finally:
        os.umask(held)
    with closing(open_database(path, NO_RESERVE)) as connection:
        add_run(connection, "first")
        assert {item.stat().st_mode & 0o777 for item in tmp_path.iterdir()} == {0o600}


def test_mode_of_a_database_in_use_stays(path):
    """A group may be meant to read it: the doctor says so, and nothing changes it."""
    path.chmod(0o640)
    with closing(open_database(path, NO_RESERVE)):
        assert path.stat().st_mode & 0o777 == 0o640


def test_link_to_a_missing_database_makes_a_private_one(tmp_path):
    """As one is set before the first start, to have the database on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "telemetry.db").symlink_to(tmp_path / "disk" / "t.db")
    with closing(open_database(tmp_path / "telemetry.db", NO_RESERVE)) as connection:
        add_run(connection, "first")
        assert {item.stat().st_mode & 0o777 for item in (tmp_path / "disk").iterdir()} == {0o600}

    assert runs(tmp_path / "telemetry.db") == ["first"]


def test_sidecars_of_a_link_are_beside_its_target(path, tmp_path):
    """Those beside the link itself are nothing to SQLite, whatever they are."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    plant(tmp_path / "link.db-wal", "pipe")
    assert runs(link) == ["first"]

    plant(path.with_name("telemetry.db-wal"), "pipe")
    with pytest.raises(StoreError, match=r"telemetry\.db-wal cannot be used"):
        connect_read_only(link)


def long_path(folder: Path, length: int) -> Path:
    """Returns a path of exactly so many bytes below a folder, which is made."""
    while length - len(os.fsencode(folder)) > 200:
        folder /= "x" * 100
    folder.mkdir(parents=True)
    return folder / ("n" * (length - len(os.fsencode(folder)) - 1))


@pytest.mark.parametrize("schema", [NO_RESERVE, EVENTS], ids=lambda schema: schema.name)
def test_longest_path_that_sqlite_takes(tmp_path, schema):
    """504 bytes work in full; one more is an error that says so before anything is made."""
    path = long_path(tmp_path / "data", 504)
    open_database(path, schema).close()
    with closing(connect_read_only(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] > 0

    longer = path.with_name(f"{path.name}n")
    with pytest.raises(StoreError, match="its path has 505 bytes, SQLite takes 504") as caught:
        open_database(longer, schema)
    assert "[observability] data_dir" in caught.value.hint
    assert not longer.exists()


def test_long_path_counts_bytes_of_the_target(tmp_path):
    """A short link does not help, because SQLite follows it; characters of several bytes count as bytes."""
    folder = long_path(tmp_path / "data", 600).parent
    (tmp_path / "short").symlink_to(folder)
    with pytest.raises(StoreError, match=r"SQLite takes 504"):
        open_database(tmp_path / "short" / ("n" * 90), NO_RESERVE)
    with pytest.raises(StoreError, match=r"SQLite takes 504"):
        open_database(tmp_path / ("ü" * 100) / ("ü" * 100) / ("ü" * 100) / "t.db", NO_RESERVE)


def test_copy_to_a_path_that_is_too_long_blames_the_copy(path, tmp_path):
    """The store is well; nothing is left in the folder."""
    target = long_path(tmp_path / "copies", 510)

    with pytest.raises(StoreError, match="SQLite takes 504"):
        snapshot(path, target)
    assert list(target.parent.iterdir()) == []
    assert runs(path) == ["first"]


def test_clean_store_on_a_read_only_disk_is_read(path, tmp_path):
    """There is no `-shm`, and none can be made; a snapshot to elsewhere has all rows."""
    with read_only(path.parent):
        assert runs(path) == ["first"]
        snapshot(path, tmp_path / "copy.db")
        with pytest.raises(StoreError, match=str(path)):
            open_database(path, NO_RESERVE)

    assert runs(tmp_path / "copy.db") == ["first"]


def test_store_in_use_is_read_through_a_read_only_mount(path):
    """As a container has the folder of a node on its host: it sees each commit, not an old state of the file."""
    elsewhere = path.parent.with_name("mounted")
    elsewhere.mkdir()
    with closing(open_database(path, NO_RESERVE)) as writer:
        add_run(writer, "second")
        if subprocess.run(["mount", "--bind", str(path.parent), str(elsewhere)], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(elsewhere)], check=True)
            assert runs(elsewhere / path.name) == ["first", "second"]
            add_run(writer, "third")
            assert runs(elsewhere / path.name) == ["first", "second", "third"]
        finally:
            subprocess.run(["umount", "--lazy", str(elsewhere)], check=True)


@pytest.mark.parametrize("has_shm", [True, False], ids=["with -shm", "without -shm"])
def test_rows_in_the_wal_are_not_passed_over(path, has_shm, tmp_path):
    """After a kill they are in the WAL: read where SQLite can, else refused with the reason; never an old state."""
    aside = tmp_path / "killed" / path.name
    aside.parent.mkdir()
    with closing(open_database(path, NO_RESERVE)) as writer:
        add_run(writer, "second")
        for ending in ("", "-wal", "-shm") if has_shm else ("", "-wal"):
            aside.with_name(aside.name + ending).write_bytes(path.with_name(path.name + ending).read_bytes())

    with read_only(aside.parent):
        if has_shm:
            assert runs(aside) == ["first", "second"]
        else:
            with pytest.raises(StoreError, match="its newest rows are in its -wal") as caught:
                connect_read_only(aside)
            assert caught.value.hint == f"copy both files to another disk: cp {aside} {aside}-wal FOLDER"


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_file_of_another_owner_is_named(path, ending, as_nobody):
    """As root's after a run with `sudo`; SQLite says only that it is unable to open the database file."""
    part = path.with_name(path.name + ending)
    part.touch(mode=0o600)
    for folder in (path.parent, *path.parents[1:-2]):
        folder.chmod(0o755)
    for other in path.parent.iterdir():
        os.chown(other, 0 if other == part else 65_534, -1)
    with as_nobody():
        found = store_error(path, sqlite3.OperationalError("unable to open database file"))

    assert found.message == f"{part} cannot be used: it belongs to root"
    assert found.hint == f"it belongs to root: sudo chown -h --from=0 65534 {part}"


def test_copy_of_an_unreadable_store_blames_the_store(path, tmp_path):
    """Not the file to be written, which is well."""
    path.write_bytes(path.read_bytes()[:8192])

    with pytest.raises(StoreError, match=str(path)):
        snapshot(path, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_no_file_of_its_own(path):
    """What SQLite makes beside another user's database while root reads it belongs to that user."""
    for file in (path.parent, *path.parent.iterdir()):
        os.chown(file, 12_345, 12_345)

    assert runs(path) == ["first"]
    assert {file.stat().st_uid for file in path.parent.iterdir()} == {12_345}
