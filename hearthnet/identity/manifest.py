"""The community manifest: members, their levels and the policy, signed by the community's root key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hearthnet.errors import IdentityError
from hearthnet.files import replace_private
from hearthnet.identity.community import MANIFEST_FILE, utc_now
from hearthnet.identity.keys import KeyPair, is_node_id, verify

__all__ = ["Manifest", "Member", "Policy", "Revocation", "read_manifest", "write_manifest"]

Level = Literal["anchor", "trusted", "member"]
# Larger values cannot be written again: not as JSON by orjson, nor into a column of the event log.
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("node_id", "community_id", "root_key", check_fields=False)
    @classmethod
    def _is_id(cls, value: str) -> str:
        if not is_node_id(value):
            raise ValueError("not a full node id")
        return value


class Policy(_Part):
    """How many members must agree to each kind of change."""

    min_signatures_to_invite: Count = 1
    min_signatures_to_demote: Count = 2
    min_signatures_to_revoke: Count = 2
    capability_token_ttl_seconds: Count = 3_600
    federation_enabled: bool = False
    default_member_can_invite: bool = False


class Member(_Part):
    """A member node."""

    node_id: str
    level: Level
    added_at: str
    added_by: str


class Revocation(_Part):
    """A node that is not a member any more."""

    node_id: str
    revoked_at: str


class Manifest(_Part):
    """The signed document. `signature` is over the canonical JSON of all other fields."""

    version: Literal[1] = 1
    community_id: str
    name: str
    root_key: str
    created_at: str
    lamport_at_creation: Count
    policy: Policy
    members: tuple[Member, ...]
    revoked: tuple[Revocation, ...]
    head_lamport: Count
    signature: str = ""

    @classmethod
    def genesis(cls, name: str, root: KeyPair, created_at: str | None = None) -> Self:
        """Returns the signed manifest of a new community, created now or at `created_at`. Its root is the member."""
        now = created_at or utc_now()
        root_id = root.node_id
        unsigned = cls(
            community_id=root_id,
            name=name,
            root_key=root_id,
            created_at=now,
            lamport_at_creation=1,
            policy=Policy(),
            members=(Member(node_id=root_id, level="anchor", added_at=now, added_by=root_id),),
            revoked=(),
            head_lamport=1,
        )
        return unsigned.signed(root)

    def signed(self, root: KeyPair) -> Self:
        """Returns the manifest with the root's signature."""
        return self.model_copy(update={"signature": root.sign(self.as_dict())})

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Returns the manifest in `raw`; its signature is not checked yet.

        Raises:
            IdentityError: raised when it is not a manifest.
        """
        try:
            return cls.model_validate(orjson.loads(raw))
        except (orjson.JSONDecodeError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise IdentityError(f"not a community manifest: {first}") from error

    def is_valid(self) -> bool:
        """Returns True if the root, whose key is the community's id, signed exactly these fields."""
        return self.community_id == self.root_key and verify(self.as_dict(), self.signature, self.root_key)

    def level_of(self, node_id: str) -> Level | None:
        """Returns the level of a member that is not revoked, or None."""
        if self.is_revoked(node_id):
            return None
        return next((member.level for member in self.members if member.node_id == node_id), None)

    def is_revoked(self, node_id: str) -> bool:
        """Returns True if the node's membership was revoked."""
        return any(entry.node_id == node_id for entry in self.revoked)

    def as_dict(self) -> dict[str, Any]:
        """Returns the manifest as JSON values."""
        return self.model_dump(mode="json")


def write_manifest(manifest: Manifest, directory: Path) -> Path:
    """Writes manifest.json atomically with mode 0600, and returns its path."""
    path = directory / MANIFEST_FILE
    replace_private(path, orjson.dumps(manifest.as_dict(), option=orjson.OPT_INDENT_2) + b"\n")
    return path


def read_manifest(directory: Path) -> Manifest:
    """Returns the manifest in `directory`, with its signature verified.

    Raises:
        IdentityError: raised when it is missing, invalid, or not signed by the community's root.
    """
    path = directory / MANIFEST_FILE
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise IdentityError(
            f"no community manifest at {path}: {error.strerror}", hint="create a community with: hearthnet init"
        ) from error
    manifest = Manifest.parse(raw)
    if not manifest.is_valid():
        raise IdentityError(
            f"{path} is not signed by its community's root key",
            hint="fetch it again from a member, or from a backup",
        )
    return manifest
