"""The manifest of a running node: which changes are loaded, and which are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hearthnet.errors import IdentityError
from hearthnet.identity.community import MANIFEST_FILE
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import CHECK_EVERY_S, Manifest, Member, Membership, Revocation, write_manifest

NOW = "2026-05-11T10:00:00.000Z"


@pytest.fixture
def root():
    """The community's root key."""
    return KeyPair.generate()


@pytest.fixture
def member():
    """The node id of a member."""
    return KeyPair.generate().node_id


@pytest.fixture
def manifest(root, member):
    """A community of two."""
    made = Manifest.genesis("home", root)
    joined = Member(node_id=member, level="member", added_at=NOW, added_by=root.node_id)
    return made.model_copy(update={"members": (*made.members, joined), "head_lamport": 2}).signed(root)


@pytest.fixture
def running(tmp_path, manifest):
    """The membership of a node started with that manifest; `later` advances the clock to the next check."""
    write_manifest(manifest, tmp_path)
    clock = SimpleNamespace(now_s=0.0)
    membership = Membership(tmp_path, lambda: clock.now_s)

    def later():
        clock.now_s += CHECK_EVERY_S
        return membership

    return SimpleNamespace(membership=membership, later=later)


def revoking(manifest, root, member, head=3):
    """Returns the manifest without that member."""
    gone = Revocation(node_id=member, revoked_at=NOW)
    return manifest.model_copy(update={"revoked": (gone,), "head_lamport": head}).signed(root)


def test_revocation_holds_within_a_second(running, tmp_path, manifest, root, member, logged):
    """A replaced file is loaded at the next check, once, and logged."""
    write_manifest(revoking(manifest, root, member), tmp_path)

    assert running.membership.level_of(member) == "member"
    assert running.later().level_of(member) is None
    assert running.later().manifest().is_revoked(member)
    assert [record.msg for record in logged] == ["manifest reloaded"]


def test_level_holds_within_a_second(running, tmp_path, manifest, root, member):
    """A change of a member's level is loaded, up or down."""
    levels = {entry.node_id: entry for entry in manifest.members}
    raised = levels[member].model_copy(update={"level": "trusted"})
    write_manifest(manifest.model_copy(update={"members": (levels[root.node_id], raised)}).signed(root), tmp_path)

    assert running.later().level_of(member) == "trusted"


@pytest.mark.parametrize("kind", ["gone", "cut", "older", "forged", "of another community"])
def test_unusable_manifest_admits_nobody(running, tmp_path, manifest, root, member, logged, kind):
    """The current manifest stays, its revocation too, and one warning is logged; a valid file ends that."""
    known = revoking(manifest, root, member)
    write_manifest(known, tmp_path)
    assert running.later().level_of(member) is None
    logged.clear()
    path = tmp_path / MANIFEST_FILE
    stranger = KeyPair.generate()
    if kind == "gone":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "older":
        write_manifest(manifest, tmp_path)
    elif kind == "forged":
        write_manifest(manifest.model_copy(update={"head_lamport": 9}).signed(stranger), tmp_path)
    else:
        write_manifest(Manifest.genesis("elsewhere", stranger), tmp_path)

    assert [running.later().manifest() for _ in range(3)] == [known] * 3
    assert [record.msg for record in logged] == ["changed manifest is unusable, the old one stays"]
    write_manifest(revoking(manifest, root, member, head=4), tmp_path)
    assert running.later().manifest().head_lamport == 4


def test_node_without_a_manifest_does_not_start(tmp_path):
    """At a start without a usable manifest there is nothing to keep: it is an error."""
    with pytest.raises(IdentityError, match="no community manifest"):
        Membership(tmp_path)
