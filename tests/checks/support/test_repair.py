"""Repairs: the plan shows them beforehand, and nothing else changes."""

from __future__ import annotations

import os
import shlex

import pytest

from hearthnet.checks.support.repair import plan_repairs
from hearthnet.observability import telemetry, trace

ALL = ("file_modes", "keys_present", "log_directory", "telemetry_store")


@pytest.fixture
def lived(node):
    """A stopped node with some records."""
    config, _ = node
    with telemetry.open(config.observability), trace.new_trace("a.b"):
        pass
    return config


def modes(config):
    """The modes of all files in the data folder."""
    return {str(path): path.stat().st_mode & 0o777 for path in config.observability.data_dir.rglob("*")}


def test_healthy_node_needs_nothing(lived):
    """Nothing is removed, even if all checks fail: a quarantined database may be the only copy."""
    aside = lived.observability.data_dir / "telemetry.db.corrupt-20260101T000000Z"
    aside.write_bytes(b"x")
    aside.chmod(0o600)

    assert plan_repairs(lived, ALL) == []


def test_modes_become_what_they_were_made_with(lived):
    """Each step shows the change and its undo; a link and its target are not changed."""
    key = lived.identity.keys_dir / "device.ed25519"
    store = lived.observability.data_dir / "telemetry.db"
    elsewhere = lived.observability.data_dir.parent / "elsewhere"
    elsewhere.write_text("x")
    elsewhere.chmod(0o666)
    (lived.identity.keys_dir / "link").symlink_to(elsewhere)
    key.chmod(0o644)
    store.chmod(0o660)

    plan = plan_repairs(lived, ["file_modes"])

    assert {step.what for step in plan} == {
        f"set the mode of {key} from 0644 to 0600",
        f"set the mode of {store} from 0660 to 0600",
    }
    assert {step.undo for step in plan} == {f"chmod 0644 {key}", f"chmod 0660 {store}"}
    assert (key.stat().st_mode & 0o777, store.stat().st_mode & 0o777) == (0o644, 0o660)  # a plan changes nothing
    assert [step.run().error for step in plan] == [None, None]
    assert (key.stat().st_mode & 0o777, store.stat().st_mode & 0o777) == (0o600, 0o600)
    assert elsewhere.stat().st_mode & 0o777 == 0o666


def test_only_findings_are_repaired(lived):
    """A finding about the key repairs only the key; no finding, nothing."""
    key = lived.identity.keys_dir / "device.ed25519"
    key.chmod(0o644)
    (lived.observability.data_dir / "telemetry.db").chmod(0o660)

    assert [step.check for step in plan_repairs(lived, ["keys_present"])] == ["file_modes"]
    assert plan_repairs(lived, ["clock_sanity"]) == []


def test_failed_step_is_reported(lived, monkeypatch):
    """A failed step does not stop the others; here the file is gone since the plan."""
    key = lived.identity.keys_dir / "device.ed25519"
    store = lived.observability.data_dir / "telemetry.db"
    key.chmod(0o644)
    store.chmod(0o644)
    plan = plan_repairs(lived, ["file_modes"])
    key.unlink()

    outcomes = {step.what.split()[4]: step.run().error for step in plan}

    assert outcomes[str(store)] is None
    assert "No such file" in outcomes[str(key)]


def test_missing_folders_are_made(lived):
    """Missing folders are created private."""
    folder = lived.observability.log_dir
    for path in folder.glob("*"):
        path.unlink()
    folder.rmdir()

    (step,) = plan_repairs(lived, ["log_directory"])[:1]
    assert step.run().error is None
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_is_left_alone(lived, monkeypatch):
    """A file left by a node started as root is not changed."""
    store = lived.observability.data_dir / "telemetry.db"
    store.chmod(0o644)
    os.chown(store, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)

    assert plan_repairs(lived, ["file_modes"]) == []


def test_what_has_another_name_or_was_changed_for_a_link_is_left_alone(lived, tmp_path):
    """Hard links, and files replaced by a link since the plan, are not changed."""
    key = lived.identity.keys_dir / "device.ed25519"
    store = lived.observability.data_dir / "telemetry.db"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("x")
    elsewhere.chmod(0o664)
    (lived.identity.keys_dir / "other name").hardlink_to(elsewhere)
    key.chmod(0o044)  # not even ours to read
    store.chmod(0o644)
    plan = plan_repairs(lived, ["file_modes"])
    assert {step.what.split()[4] for step in plan} == {str(key), str(store)}

    store.unlink()
    store.symlink_to(elsewhere)
    outcomes = {step.what.split()[4]: step.run().error for step in plan}

    assert outcomes[str(key)] is None
    assert "was replaced" in outcomes[str(store)]
    assert (key.stat().st_mode & 0o777, elsewhere.stat().st_mode & 0o777) == (0o600, 0o664)


def test_undo_can_be_pasted(lived):
    """File names are quoted for the shell."""
    odd = lived.identity.keys_dir / "a; rm -rf $HOME"
    odd.write_text("x")
    odd.chmod(0o644)

    (step,) = plan_repairs(lived, ["file_modes"])

    assert shlex.split(step.undo) == ["chmod", "0644", str(odd)]


def test_folder_that_may_not_be_entered_breaks_no_plan(lived, as_nobody):
    """Without access to the files nothing is offered."""
    lived.observability.data_dir.chmod(0o700)

    with as_nobody():
        assert plan_repairs(lived, ALL) == []


@pytest.fixture
def left_by_root(lived):
    """The node belongs to another user than root, but for its database and its key."""
    if os.geteuid() != 0:
        pytest.skip("only root leaves files to root")
    for folder in (lived.observability.data_dir, lived.identity.keys_dir):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65_534, 65_534)
    key, store = lived.identity.keys_dir / "device.ed25519", lived.observability.data_dir / "telemetry.db"
    for path in (key, store):
        os.chown(path, 0, 0)
    return lived, key, store


def test_root_gives_back_what_it_left(left_by_root):
    """The owner of the folder gets its files again; the undo can be pasted."""
    config, key, store = left_by_root
    plan = plan_repairs(config, ["file_modes"])

    assert {step.undo for step in plan} == {f"chown 0:0 {key}", f"chown 0:0 {store}"}
    assert all("belongs to root" in step.what for step in plan)
    assert [step.run().error for step in plan] == [None, None]
    for path in (key, store):
        status = path.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65_534, 65_534, 0o600)
    assert plan_repairs(config, ["file_modes"]) == []
    assert [step.what for step in plan_repairs(config, ["keys_present"])] == []


def test_root_gives_away_no_file_with_another_name(left_by_root, tmp_path):
    """A hard link, a link, another user's file, and what is put in its place after the plan stay as they are."""
    config, key, store = left_by_root
    plan = plan_repairs(config, ["file_modes"])
    os.link(store, tmp_path / "another name")
    assert [step.undo for step in plan_repairs(config, ["file_modes"])] == [f"chown 0:0 {key}"]
    secret = tmp_path / "secret"
    secret.write_text("x")
    key.unlink()
    key.symlink_to(secret)
    assert all(step.run().error for step in plan)
    assert secret.stat().st_uid == store.stat().st_uid == 0

    (tmp_path / "another name").unlink()
    os.chown(store, 12_345, 12_345)
    assert plan_repairs(config, ["file_modes"]) == []
