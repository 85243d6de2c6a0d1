"""The checks of keys, community and event log, each with a healthy and a broken node."""

from __future__ import annotations

import os
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from support.limits import no_file_left

from hearthnet import database
from hearthnet.checks import identity
from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.identity.manifest import Manifest, Member, Revocation, read_manifest, write_manifest
from hearthnet.observability import doctor

# Has the event log's write lock until its input is closed.
LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Time limits that a loaded machine cannot exceed."""
    monkeypatch.setattr(identity, "_CHECK_WITHIN_S", 30.0)


def run(name, node):
    """Returns the finding of one check."""
    return doctor.run_one(name, *node, deadline_s=60)


def paste(fix):
    """Runs a fix in a shell."""
    return subprocess.run(fix, shell=True, capture_output=True, text=True, check=True)


@pytest.fixture
def key(node):
    """The path of the private key."""
    return node[0].identity.keys_dir / "device.ed25519"


@pytest.fixture
def community(node):
    """The path of the community's folder."""
    (manifest,) = node[0].community.state_dir.glob("*/manifest.json")
    return manifest.parent


@pytest.fixture
def log_file(community):
    """The path of the event log."""
    return community / "events.sqlite"


def test_healthy_node_passes_with_what_was_measured(node, key):
    """On a new node all four pass and show what they found."""
    present, loadable, member, events = (
        run(name, node) for name in ("keys_present", "keys_loadable", "community_present", "event_log_writable")
    )

    assert [result.status for result in (present, loadable, member, events)] == ["pass"] * 4
    assert (present.evidence["mode"], present.evidence["path"]) == ("0600", str(key))
    assert loadable.evidence["short_id"] == short_id(node[1].node_id)
    assert (member.evidence["level"], member.evidence["members"]) == ("anchor", 1)
    assert (events.evidence["events"], events.evidence["integrity"]) == (1, "ok")
    assert events.evidence["bytes"] > 0
    assert events.evidence["write_ms"] > 0


def test_doctor_keys_missing(node, key):
    """`keys_present` fails without a key and shows how to create one; dependent checks are skipped."""
    key.unlink()

    result = run("keys_present", node)
    assert (result.ok, result.status, result.fix) == (False, "fail", "hearthnet init")
    assert "not a member of the 1 community folder here" in result.detail
    loadable = run("keys_loadable", node)
    assert (loadable.status, loadable.detail) == ("fail", "no device key to load: see keys_present")
    assert run("community_present", node).status == run("event_log_writable", node).status == "skip"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o400])
def test_key_that_others_may_read_fails(node, key, mode):
    """Any mode but 0600 fails, with the command that fixes it."""
    key.chmod(mode)
    result = run("keys_present", node)

    assert (result.status, result.fix) == ("fail", f"chmod 600 {key}")
    assert result.evidence["mode"] == f"{mode:04o}"
    paste(result.fix)
    assert run("keys_present", node).status == "pass"


def test_folder_that_others_may_write_fails(config, node, key):
    """A writable folder fails too; one command fixes folder and key, whatever the folder's name."""
    folder = key.parent.rename(key.parent.with_name("my keys; $HOME"))
    identity = config.identity.model_copy(update={"keys_dir": folder})
    node = node[0].model_copy(update={"identity": identity}), node[1]
    folder.chmod(0o777)
    (folder / key.name).chmod(0o604)

    result = run("keys_present", node)
    assert result.status == "fail"
    assert "other users can write its folder (mode 0777)" in result.detail
    paste(result.fix)
    assert run("keys_present", node).status == "pass"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_key_of_another_user_fails(node, key):
    """A key owned by neither us nor the folder's owner fails; one of the folder's owner passes."""
    os.chown(key, 65_534, 65_534)
    os.chown(key.parent, 12_345, 12_345)
    result = run("keys_present", node)
    assert result.status == "fail"
    assert result.fix == f"sudo chown 12345 {key}"

    os.chown(key, 12_345, 12_345)
    assert run("keys_present", node).status == "pass"


def test_key_that_is_no_plain_file(node, key):
    """A link is a warning; a dangling link and a folder fail."""
    elsewhere = key.rename(key.parent.parent / "elsewhere")
    key.symlink_to(elsewhere)
    linked = run("keys_present", node)
    assert (linked.status, linked.evidence["links_to"]) == ("warn", str(elsewhere))
    assert run("keys_loadable", node).status == "pass"

    elsewhere.unlink()
    assert "which does not exist" in run("keys_present", node).detail

    key.unlink()
    key.mkdir(mode=0o600)
    folder = run("keys_present", node)
    assert (folder.status, folder.detail) == ("fail", f"{key} is not a file")
    assert "it is a folder, not a file" in run("keys_loadable", node).detail


def test_truncated_and_foreign_keys_fail(node, key):
    """Truncated, wrong format, another key's half and missing are distinguished, and the fix works."""
    public = key.with_name("device.pub")
    stranger = KeyPair.generate()
    for content, told in (
        (stranger.public_bytes, f"is the public half of {short_id(stranger.node_id)}"),
        (b"\0" * 31, "device.pub has 31 bytes"),
        (b"-----BEGIN PUBLIC KEY-----", "it looks like PEM"),
        (None, "device.pub cannot be read: No such file"),
    ):
        public.unlink() if content is None else public.write_bytes(content)
        result = run("keys_loadable", node)
        assert result.status == "fail"
        assert told in result.detail
        paste(result.fix)
        assert run("keys_loadable", node).status == "pass"

    key.write_bytes(stranger.private_bytes)  # whose it is, nobody here knows: nothing may be derived from it
    result = run("keys_loadable", node)
    assert result.evidence["short_id"] == short_id(stranger.node_id)
    assert result.fix.startswith("cp BACKUP/")
    key.write_bytes(b"short")
    assert "5 bytes" in run("keys_loadable", node).detail


def test_manifest_that_is_tampered_with_or_missing_fails(node, community):
    """A manifest that is unsigned, invalid or missing fails with a fix."""
    path = community / "manifest.json"
    path.write_text(path.read_text().replace('"home"', '"away"'))
    tampered = run("community_present", node)
    assert tampered.status == "fail"
    assert "not signed" in tampered.detail
    assert shlex.split(tampered.fix)[:4] == ["curl", "-fsS", "-o", str(path)]

    path.write_text("{}")
    assert "not a community manifest" in run("community_present", node).detail
    path.unlink()
    assert run("community_present", node).fix == "hearthnet init"


def test_node_that_does_not_belong_fails(node, community):
    """Revoked, not a member, and another community's manifest are three different failures."""
    root = KeyPair.load(node[0].identity.keys_dir)
    own = read_manifest(community)
    gone = Revocation(node_id=root.node_id, revoked_at=own.created_at)
    write_manifest(own.model_copy(update={"revoked": (gone,)}).signed(root), community)
    revoked = run("community_present", node)
    assert (revoked.status, "this node is revoked" in revoked.detail) == ("fail", True)

    other = Member(node_id=KeyPair.generate().node_id, level="anchor", added_at=own.created_at, added_by=root.node_id)
    write_manifest(own.model_copy(update={"members": (other,)}).signed(root), community)
    stranger = run("community_present", node)
    assert (stranger.status, stranger.evidence["level"]) == ("fail", None)
    assert "this node is not a member" in stranger.detail

    write_manifest(Manifest.genesis("next door", KeyPair.generate()), community)
    assert "belongs to another community, 'next door'" in run("community_present", node).detail
    write_manifest(own, community)
    assert run("community_present", node).status == "pass"


def test_invalid_event_log_fails(node, log_file):
    """Foreign bytes, an empty file, a folder and a missing file fail; none becomes a new log."""
    with closing(sqlite3.connect(log_file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # so that the file is all there is
    log_file.write_text("not a database at all, but long enough to be read as a header of one" * 20)
    foreign = run("event_log_writable", node)
    assert foreign.status == "fail"
    assert foreign.fix.startswith(f"sqlite3 {log_file} .recover")

    log_file.write_bytes(b"")
    assert "it is empty" in run("event_log_writable", node).detail
    assert log_file.stat().st_size == 0

    log_file.unlink()
    missing = run("event_log_writable", node)
    assert (missing.status, missing.fix) == ("fail", f"cp BACKUP/events.sqlite {log_file}")
    assert not log_file.exists()

    log_file.mkdir()
    assert "is not a file" in run("event_log_writable", node).detail
    log_file.rmdir()
    (log_file.parent / "manifest.json").unlink()
    assert run("event_log_writable", node).fix == "hearthnet init"


def test_damaged_event_log_fails(node, log_file):
    """Damage in the middle of the file, which opening does not detect, fails."""
    with closing(sqlite3.connect(log_file)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name LIKE 'clock%'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with log_file.open("r+b") as file:
        file.seek((page - 1) * size + 8)
        file.write(b"\xff" * 64)

    result = run("event_log_writable", node)
    assert result.status == "fail"
    assert ".recover | sqlite3" in result.fix


def test_locked_event_log_names_who_locks_it(node, log_file):
    """A lasting lock fails and names the process; afterwards the check passes."""
    command = [sys.executable, "-c", LOCKER, str(log_file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
        assert locker.stdout.readline() == "locked\n"
        result = run("event_log_writable", node)
        locker.stdin.close()
        assert locker.wait(60) == 0

    assert result.status == "fail"
    assert "has been locked by " in result.detail
    if f"(pid {locker.pid})" in result.detail:
        assert result.fix == f"ps -fp {locker.pid}"
    else:  # a file system that tells another number in /proc/locks
        assert result.fix == f"sudo lsof {log_file}"
    assert run("event_log_writable", node).status == "pass"


def test_read_only_event_log_fails(node, log_file, request):
    """A read-only log fails, and the fix makes it writable again."""
    if os.geteuid() == 0:  # whom a mode does not stop
        disk = request.getfixturevalue("tiny_disk")
        folder = log_file.parent.rename(disk.with_name("aside"))
        log_file.parent.symlink_to(disk)
        for path in folder.iterdir():
            (disk / path.name).write_bytes(path.read_bytes())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    else:
        log_file.chmod(0o400)
        log_file.parent.chmod(0o500)
    result = run("event_log_writable", node)

    assert result.status == "fail"
    assert "mount -o remount,rw" in result.fix or result.fix.startswith("chmod u+rwX ")
    paste(result.fix.replace("sudo ", "") if os.geteuid() == 0 else result.fix)
    assert run("event_log_writable", node).status == "pass"


def test_check_of_a_large_log_ends_in_time(node, monkeypatch):
    """An integrity check cut short is not a failure, and not called intact."""
    monkeypatch.setattr(identity, "_CHECK_WITHIN_S", 0.0)
    monkeypatch.setattr(database, "STEPS_BETWEEN_CHECKS", 1)
    result = run("event_log_writable", node)

    assert (result.status, result.evidence["integrity"]) == ("pass", "unfinished")
    assert "only partly checked" in result.detail


def test_event_log_is_not_blamed_for_a_process_without_files_left(node, log_file):
    """Its modes are right: there is no command for them."""
    assert identity.check_event_log(log_file, "c").ok
    with no_file_left(), pytest.raises(OSError, match="Too many open files"):
        identity.check_event_log(log_file, "c")
