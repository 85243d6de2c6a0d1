"""The community manifest: its fields at genesis, its members, and every way in which it is refused."""

from __future__ import annotations

import json
import re
import stat

import pytest

from hearthnet.errors import IdentityError
from hearthnet.identity.community import community_dir
from hearthnet.identity.keys import KeyPair, verify
from hearthnet.identity.manifest import Manifest, Member, Revocation, read_manifest, write_manifest

RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z"


@pytest.fixture
def root():
    """The community's root key."""
    return KeyPair.generate()


@pytest.fixture
def manifest(root):
    """A manifest at genesis."""
    return Manifest.genesis("Maple Street", root)


def test_genesis_has_the_fields_of_the_protocol(manifest, root):
    """Names and values are those that other nodes read."""
    document = manifest.as_dict()

    assert list(document) == [
        "version",
        "community_id",
        "name",
        "root_key",
        "created_at",
        "lamport_at_creation",
        "policy",
        "members",
        "revoked",
        "head_lamport",
        "signature",
    ]
    assert document["version"] == 1
    assert document["community_id"] == document["root_key"] == root.node_id
    assert document["name"] == "Maple Street"
    assert document["lamport_at_creation"] == document["head_lamport"] == 1
    assert document["revoked"] == []
    assert re.fullmatch(RFC3339, document["created_at"])
    assert set(document["policy"]) == {
        "min_signatures_to_invite",
        "min_signatures_to_demote",
        "min_signatures_to_revoke",
        "capability_token_ttl_seconds",
        "federation_enabled",
        "default_member_can_invite",
    }


def test_root_is_the_sole_member_at_genesis(manifest, root):
    """The root is an anchor, and added itself."""
    (member,) = manifest.as_dict()["members"]

    assert set(member) == {"node_id", "level", "added_at", "added_by"}
    assert (member["node_id"], member["level"], member["added_by"]) == (root.node_id, "anchor", root.node_id)


def test_signature_is_the_roots(manifest, root):
    """The signature verifies over the document without its `signature` field."""
    document = manifest.as_dict()
    signature = document.pop("signature")

    assert verify(document, signature, root.node_id)
    assert manifest.is_valid()


def test_levels(manifest, root):
    """A member has its level, a non-member none, and a revoked one none any more."""
    friend, former, stranger = (KeyPair.generate().node_id for _ in range(3))
    members = (
        *manifest.members,
        Member(node_id=friend, level="trusted", added_at=manifest.created_at, added_by=root.node_id),
        Member(node_id=former, level="member", added_at=manifest.created_at, added_by=root.node_id),
    )
    revoked = (Revocation(node_id=former, revoked_at=manifest.created_at),)
    later = manifest.model_copy(update={"members": members, "revoked": revoked}).signed(root)

    assert later.is_valid()
    assert [later.level_of(node) for node in (root.node_id, friend, former, stranger)] == [
        "anchor",
        "trusted",
        None,
        None,
    ]
    assert [later.is_revoked(node) for node in (root.node_id, former, stranger)] == [False, True, False]


def test_written_manifest_is_read_back(manifest, tmp_path):
    """The file is private, is JSON, and has the same manifest."""
    path = write_manifest(manifest, tmp_path / "community")

    assert path == tmp_path / "community" / "manifest.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_bytes()) == manifest.as_dict()
    assert read_manifest(path.parent) == manifest


def test_key_order_and_white_space_of_the_file_do_not_matter(manifest, tmp_path):
    """The signature covers the canonical encoding, so another node's formatting is accepted."""
    document = dict(reversed(manifest.as_dict().items()))
    (tmp_path / "manifest.json").write_text(json.dumps(document, indent=7))

    assert read_manifest(tmp_path) == manifest


def change(document: dict, path: str, value: object) -> None:
    """Sets a nested value of a document."""
    *parents, last = path.split(".")
    for part in parents:
        document = document[int(part) if isinstance(document, list) else part]
    document[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "Elm Street"),
        ("created_at", "2020-01-01T00:00:00Z"),
        ("head_lamport", 2),
        ("lamport_at_creation", 0),
        ("policy.min_signatures_to_revoke", 1),
        ("policy.federation_enabled", True),
        ("members.0.level", "member"),
        ("members.0.added_at", ""),
        ("members", []),
        ("signature", ""),
        ("signature", "ed25519:" + "A" * 86),
    ],
)
def test_tampered_manifest_is_refused(manifest, tmp_path, path, value):
    """Any change of any field breaks the root's signature."""
    document = manifest.as_dict()
    change(document, path, value)
    (tmp_path / "manifest.json").write_text(json.dumps(document))

    with pytest.raises(IdentityError, match="not signed") as caught:
        read_manifest(tmp_path)
    assert caught.value.hint


def test_added_member_is_refused_without_the_roots_signature(manifest, tmp_path):
    """A node cannot add itself to the community."""
    document = manifest.as_dict()
    document["members"].append({**document["members"][0], "node_id": KeyPair.generate().node_id})
    (tmp_path / "manifest.json").write_text(json.dumps(document))

    with pytest.raises(IdentityError, match="not signed"):
        read_manifest(tmp_path)


def test_manifest_signed_by_another_root_is_refused(manifest, tmp_path):
    """A manifest signed with another key, or with another root key inside, is not the community's."""
    usurper = KeyPair.generate()
    forged = manifest.model_copy(update={"root_key": usurper.node_id}).signed(usurper)

    assert not manifest.signed(usurper).is_valid()
    assert not forged.is_valid()
    write_manifest(forged, tmp_path)
    with pytest.raises(IdentityError, match="not signed"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("community_id", "not-an-id"),
        ("root_key", "ed25519:short"),
        ("members.0.node_id", ""),
        ("members.0.level", "king"),
        ("members.0.color", "red"),
        ("policy.unknown", 1),
        ("head_lamport", "soon"),
        ("name", None),
        ("extra", 1),
    ],
)
def test_document_of_another_form_is_refused(manifest, path, value):
    """Unknown fields, and values of other types, are refused."""
    document = manifest.as_dict()
    change(document, path, value)

    with pytest.raises(IdentityError, match="not a community manifest"):
        Manifest.parse(json.dumps(document).encode())


@pytest.mark.parametrize("field", ["version", "signature"])
def test_field_with_a_standard_value_may_be_missing_only_where_the_signature_covers_it(manifest, field):
    """Omitting a field never makes an unsigned manifest valid."""
    document = manifest.as_dict()
    del document[field]
    parsed = Manifest.parse(json.dumps(document).encode())

    assert parsed.is_valid() is (field == "version")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"text"', b"{}", b"\xff\xfe", b"[" * 2_000])
def test_invalid_document_is_refused(tmp_path, raw):
    """Bytes that are not a JSON object of this form are an error with a message, not a traceback."""
    (tmp_path / "manifest.json").write_bytes(raw)

    with pytest.raises(IdentityError, match="not a community manifest"):
        read_manifest(tmp_path)


def test_missing_manifest_is_refused(tmp_path):
    """The hint says how to create a community."""
    with pytest.raises(IdentityError, match=r"manifest\.json") as caught:
        read_manifest(tmp_path)
    assert "hearthnet init" in caught.value.hint


def test_manifest_is_frozen(manifest):
    """A signed manifest is immutable."""
    with pytest.raises(ValueError, match="frozen"):
        manifest.name = "Elm Street"


def test_folder_of_a_community_is_a_safe_name(tmp_path):
    """The id's colon, which some file systems reject, is replaced; other ids have other folders."""
    first, second = (KeyPair.generate().node_id for _ in range(2))
    folder = community_dir(tmp_path, first)

    assert folder.parent == tmp_path
    assert re.fullmatch(r"[A-Za-z0-9_-]+", folder.name)
    assert folder != community_dir(tmp_path, second)
