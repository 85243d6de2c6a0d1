"""Stores of imported records: whole or absent, private, and never one's own."""

from __future__ import annotations

import os
import sqlite3
import stat

import pytest
from support.records import a_log, a_trace

from hearthnet.errors import HearthNetError, StoreError
from hearthnet.files import locked_folder
from hearthnet.forensics.gather import gather
from hearthnet.forensics.report.text import report
from hearthnet.forensics.verdict import judge
from hearthnet.observability.otel.export.mapping import Gap, Origin
from hearthnet.observability.otel.imports import store
from hearthnet.observability.otel.imports.contents import Contents

ID = "01M8PB3HQC7D4KZXGR0H1X3EKY"


def some():
    """Two traces, a log record and a gap, in turn."""
    origins = {"run": Origin("run", None, "cron.py", "2.0", 7, "library")}
    return Contents(
        [a_trace(1, trace_id=ID), a_trace(4)], [a_log(2), Gap("run", 0, 3_000_000, "log", "full", 5)], origins
    )


def test_records_are_in_the_order_of_their_time(tmp_path):
    """Traces, log records and gaps in one; the run begins with the first and ends with the last."""
    folder = store.create(tmp_path, "kitchen", some())
    with sqlite3.connect(folder / "telemetry.db") as connection:
        kinds = connection.execute("SELECT kind FROM timeline ORDER BY seq").fetchall()
        runs = connection.execute("SELECT program, pid, started_us, ended_us, end_reason FROM runs").fetchall()
    connection.close()

    assert [kind for (kind,) in kinds] == ["trace", "log", "gap", "trace"]
    assert runs == [("cron.py", 7, 1_000_000, 4_001_000, "imported")]
    assert store.summary(tmp_path, "kitchen")[2:] == (2, 2, ["cron.py"], 4_001_000)


def test_files_are_private(tmp_path):
    """Whatever the umask is."""
    old = os.umask(0)
    try:
        folder = store.create(tmp_path, "kitchen", some())
    finally:
        os.umask(old)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "x" * 65, "a b", "x\n", "\u00fc"])
def test_name_that_is_no_name(name, tmp_path):
    """Nothing is made or removed outside the folder."""
    for act in (lambda: store.create(tmp_path, name, some()), lambda: store.remove(tmp_path, name)):
        with pytest.raises(HearthNetError, match="cannot be the name"):
            act()
    assert list(tmp_path.iterdir()) == []


def test_name_that_is_taken_keeps_what_it_has(tmp_path):
    """And nothing half-made stays."""
    folder = store.create(tmp_path, "kitchen", some())
    with pytest.raises(StoreError, match="already"):
        store.create(tmp_path, "kitchen", Contents([a_trace(1)]))

    assert store.summary(tmp_path, "kitchen").traces == 2
    assert [path.name for path in folder.parent.iterdir()] == ["kitchen"]


def test_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """The store has its name only when it is whole."""
    monkeypatch.setattr(store, "merge", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(HearthNetError, match="disk is full"):
        store.create(tmp_path, "kitchen", some())

    assert list((tmp_path / "imported").iterdir()) == []
    assert store.names(tmp_path) == []


def unfinished(tmp_path, name=".kitchen-ab12cd_9"):
    """What an import has left that was killed."""
    folder = tmp_path / "imported" / name
    folder.mkdir(parents=True)
    (folder / "telemetry.db").write_bytes(b"half")
    (folder / "telemetry.db-wal").touch()
    return folder


@pytest.mark.parametrize("act", [lambda at: store.create(at, "k", some()), store.remove_unfinished])
def test_what_a_killed_import_left_is_removed(act, tmp_path):
    """By the next one, or a purge. A link, a file of others, another name stay."""
    left = unfinished(tmp_path)
    others = unfinished(tmp_path, ".others-ab12cd_9")
    (others / "mine").touch()
    git = unfinished(tmp_path, ".git")
    (tmp_path / "imported" / ".link-ab12cd_9").symlink_to(git)
    act(tmp_path)

    assert not left.exists()
    assert len(list(others.iterdir())) == 3
    assert len(list(git.iterdir())) == 2


def test_import_that_runs_keeps_what_it_makes(tmp_path):
    """Its lock says that it does; another import waits for it, a purge leaves it alone."""
    left = unfinished(tmp_path)
    with locked_folder(tmp_path / "imported", 0.0):
        store.remove_unfinished(tmp_path)
    assert left.exists()


def test_import_does_not_wait_for_ever(tmp_path, monkeypatch):
    """For one that hangs."""
    monkeypatch.setattr(store, "_LOCK_WAIT_S", 0.0)
    (tmp_path / "imported").mkdir()
    with locked_folder(tmp_path / "imported", 0.0), pytest.raises(StoreError, match="locked"):
        store.create(tmp_path, "kitchen", some())
    assert list((tmp_path / "imported").iterdir()) == []


def test_nothing_to_remove(tmp_path):
    """Nor a folder made for it."""
    store.remove_unfinished(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_end_of_an_imported_run_is_not_guessed(tmp_path):
    """An export does not have it: the run was not killed, nor did it stop; the kernel of this machine is not asked."""
    case = gather(store.create(tmp_path, "kitchen", some()))
    verdict = judge(case)

    assert (verdict.cause, verdict.confidence, verdict.alternatives, verdict.missing) == ("imported", "certain", (), ())
    assert case.run.kernel is None
    assert "IMPORTED: its records are imported" in report(case, verdict, colour=False, unicode=True)


def test_folder_that_cannot_be_one(tmp_path):
    """A file in its place is left alone."""
    (tmp_path / "imported").write_text("mine", "utf-8")
    for act in (lambda: store.create(tmp_path, "kitchen", some()), lambda: store.names(tmp_path)):
        with pytest.raises(StoreError):
            act()

    assert (tmp_path / "imported").read_text("utf-8") == "mine"


def test_remove_takes_the_store_alone(tmp_path):
    """A link is none; a file beside it stays."""
    folder = store.create(tmp_path, "kitchen", some())
    (folder.parent / "link").symlink_to(folder)
    with pytest.raises(StoreError, match="there is no imported store"):
        store.remove(tmp_path, "link")
    (folder / "mine").touch()
    with pytest.raises(StoreError, match="has files of others: mine"):
        store.remove(tmp_path, "kitchen")
    assert {path.name for path in folder.iterdir()} == {"telemetry.db", "mine"}
    (folder / "mine").unlink()
    store.remove(tmp_path, "kitchen")
    assert not folder.exists()


def test_store_that_is_damaged_hides_no_other(tmp_path):
    """It is told of."""
    store.create(tmp_path, "a", some())
    store.create(tmp_path, "b", some())
    (tmp_path / "imported" / "a" / "telemetry.db").write_bytes(b"no database")
    told = []

    found = list(store.traces_alike(tmp_path, ID[:6], 5, told.append))

    assert [(name, trace["program"], trace["trace_id"]) for name, trace in found] == [("b", "cron.py", ID)]
    assert len(told) == 1


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("kitchen.jsonl", "kitchen"),
        ("a b\u00fc.json", "a-b-"),
        ("...", "traces"),
        ("-x.y.bin", "x.y"),
        ("\n", "traces"),
    ],
)
def test_name_of_a_file(file, name, tmp_path):
    """Is one that a store can have."""
    assert store.name_for(tmp_path / file) == name
    assert store.folder_of(tmp_path, name)
