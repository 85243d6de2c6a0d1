"""What the doctor mends: the plan tells it beforehand, and nothing else changes."""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import closing

import pytest

from hearthnet.checks.repair import plan_repairs
from hearthnet.observability import telemetry, trace

ALL = ("file_modes", "keys_present", "log_directory", "telemetry_store")


@pytest.fixture
def lived(node):
    """A node that has recorded something and was stopped."""
    config, _ = node
    with telemetry.open(config.observability), trace.new_trace("a.b"):
        pass
    return config


def modes(config):
    """The mode of everything in the data folder."""
    return {str(path): path.stat().st_mode & 0o777 for path in config.observability.data_dir.rglob("*")}


def test_healthy_node_needs_nothing(lived):
    """Not even if every check were said to be unwell."""
    assert plan_repairs(lived, ALL, ALL) == []


def test_modes_become_what_they_were_made_with(lived):
    """Each step says from and to and how to put it back; a link and what it points at stay."""
    key = lived.identity.keys_dir / "device.ed25519"
    store = lived.observability.data_dir / "telemetry.db"
    elsewhere = lived.observability.data_dir.parent / "elsewhere"
    elsewhere.write_text("x")
    elsewhere.chmod(0o666)
    (lived.identity.keys_dir / "link").symlink_to(elsewhere)
    key.chmod(0o644)
    store.chmod(0o660)

    plan = plan_repairs(lived, ["file_modes"], ALL)

    assert {step.what for step in plan} == {
        f"set the mode of {key} from 0644 to 0600",
        f"set the mode of {store} from 0660 to 0600",
    }
    assert {step.undo for step in plan} == {f"chmod 0644 {key}", f"chmod 0660 {store}"}
    assert (key.stat().st_mode & 0o777, store.stat().st_mode & 0o777) == (0o644, 0o660)  # a plan changes nothing
    assert [step.run().error for step in plan] == [None, None]
    assert (key.stat().st_mode & 0o777, store.stat().st_mode & 0o777) == (0o600, 0o600)
    assert elsewhere.stat().st_mode & 0o777 == 0o666


def test_only_what_was_unwell_is_mended(lived):
    """A finding about the key mends the key alone; none, nothing."""
    key = lived.identity.keys_dir / "device.ed25519"
    key.chmod(0o644)
    (lived.observability.data_dir / "telemetry.db").chmod(0o660)

    assert [step.check for step in plan_repairs(lived, ["keys_present"], ALL)] == ["file_modes"]
    assert plan_repairs(lived, ["clock_sanity"], ALL) == []


def test_step_that_fails_is_told(lived, monkeypatch):
    """The others go on; here the file has gone since the plan was made."""
    key = lived.identity.keys_dir / "device.ed25519"
    store = lived.observability.data_dir / "telemetry.db"
    key.chmod(0o644)
    store.chmod(0o644)
    plan = plan_repairs(lived, ["file_modes"], ALL)
    key.unlink()

    outcomes = {step.what.split()[4]: step.run().error for step in plan}

    assert outcomes[str(store)] is None
    assert "No such file" in outcomes[str(key)]


def test_missing_folders_are_made(lived):
    """For their owner alone."""
    folder = lived.observability.log_dir
    for path in folder.glob("*"):
        path.unlink()
    folder.rmdir()

    (step,) = plan_repairs(lived, ["log_directory"], ALL)[:1]
    assert step.run().error is None
    assert folder.stat().st_mode & 0o777 == 0o700


def test_quarantine_is_acknowledged(lived):
    """The file goes with its companions; the plan says that this cannot be undone."""
    data_dir = lived.observability.data_dir
    for ending in ("", "-wal"):
        (data_dir / f"telemetry.db.corrupt-20260101T000000Z{ending}").write_bytes(b"x" * 1000)

    (step,) = plan_repairs(lived, ["telemetry_store"], ALL)

    assert "cannot be undone" in step.undo
    assert step.run().error is None
    assert not list(data_dir.glob("*.corrupt-*"))


def test_wal_of_a_killed_node_is_moved_into_the_database(lived):
    """Nothing of it is lost; with a node running there is no such step."""
    path = lived.observability.data_dir / "telemetry.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        for number in range(400):
            db.execute("INSERT INTO gaps VALUES (?, 0, 'log', ?, 1)", (10_000 + number, "x" * 4_000))
            db.commit()
        # Copied while it is open, as a kill leaves it.
        left = {ending: path.with_name(path.name + ending).read_bytes() for ending in ("", "-wal")}
    for ending, content in left.items():
        path.with_name(path.name + ending).write_bytes(content)

    (step,) = plan_repairs(lived, [], ["telemetry_store"])
    assert step.run().error is None

    assert not path.with_name("telemetry.db-wal").exists()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM gaps WHERE seq >= 10000").fetchone() == (400,)

    for ending, content in left.items():
        path.with_name(path.name + ending).write_bytes(content)
    with telemetry.open(lived.observability):
        assert plan_repairs(lived, [], ["telemetry_store"]) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_is_left_alone(lived, monkeypatch):
    """A file that a node once started by root left behind is not ours to change."""
    store = lived.observability.data_dir / "telemetry.db"
    store.chmod(0o644)
    os.chown(store, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)

    assert plan_repairs(lived, ["file_modes"], ALL) == []


def test_what_has_another_name_or_was_changed_for_a_link_is_left_alone(lived, tmp_path):
    """A hard link may be anybody's file, and between plan and deed a link may take a file's place."""
    key = lived.identity.keys_dir / "device.ed25519"
    store = lived.observability.data_dir / "telemetry.db"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("x")
    elsewhere.chmod(0o664)
    (lived.identity.keys_dir / "other name").hardlink_to(elsewhere)
    key.chmod(0o044)  # not even ours to read
    store.chmod(0o644)
    plan = plan_repairs(lived, ["file_modes"], ALL)
    assert {step.what.split()[4] for step in plan} == {str(key), str(store)}

    store.unlink()
    store.symlink_to(elsewhere)
    outcomes = {step.what.split()[4]: step.run().error for step in plan}

    assert outcomes[str(key)] is None
    assert "another file" in outcomes[str(store)]
    assert (key.stat().st_mode & 0o777, elsewhere.stat().st_mode & 0o777) == (0o600, 0o664)


def test_undo_can_be_pasted(lived):
    """Whatever the name of a file says to a shell."""
    odd = lived.identity.keys_dir / "a; rm -rf $HOME"
    odd.write_text("x")
    odd.chmod(0o644)

    (step,) = plan_repairs(lived, ["file_modes"], ALL)

    assert shlex.split(step.undo) == ["chmod", "0644", str(odd)]


def test_what_is_the_only_copy_or_no_quarantine_of_ours_is_kept(lived):
    """With no store in its place nothing was taken over; a copy that somebody called alike is his."""
    data_dir = lived.observability.data_dir
    (data_dir / "telemetry.db.corrupt-my-copy").write_bytes(b"x")
    (data_dir / "telemetry.db.corrupt-20260101T000000Z").write_bytes(b"x")
    assert [step.what.split()[1] for step in plan_repairs(lived, ["telemetry_store"], [])] == [
        str(data_dir / "telemetry.db.corrupt-20260101T000000Z")
    ]

    (data_dir / "telemetry.db").unlink()

    assert plan_repairs(lived, ["telemetry_store"], []) == []


def test_wal_that_cannot_be_moved_is_told(lived):
    """A damaged database is a step that failed, and a reader keeps what it reads where it is."""
    path = lived.observability.data_dir / "telemetry.db"
    wal = path.with_name("telemetry.db-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("INSERT INTO gaps VALUES (10000, 0, 'log', 'x', 1)")
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM gaps").fetchone()
            for number in range(400):
                db.execute("INSERT INTO gaps VALUES (?, 0, 'log', ?, 1)", (10_001 + number, "x" * 4_000))
            (step,) = plan_repairs(lived, [], ["telemetry_store"])
            assert "not all was moved" in step.run().error
    path.write_bytes(b"no database" * 1_000)
    wal.write_bytes(b"x" * 2_000_000)

    (step,) = plan_repairs(lived, [], ["telemetry_store"])
    assert "cannot be used" in step.run().error


def test_folder_that_may_not_be_entered_breaks_no_plan(lived, as_nobody):
    """Somebody who may see nothing is offered nothing."""
    lived.observability.data_dir.chmod(0o700)

    with as_nobody():
        assert plan_repairs(lived, ALL, ALL) == []
