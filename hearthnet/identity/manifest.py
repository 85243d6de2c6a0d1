"""The community manifest: members, their levels and the policy, signed by the community's root key.

A running node reloads it when its file changes, because a revocation cannot wait for a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hearthnet.errors import IdentityError
from hearthnet.files import hint_for, read_regular, replace_private
from hearthnet.identity.community import MANIFEST_FILE, utc_now
from hearthnet.identity.keys import KeyPair, is_node_id, verify
from hearthnet.observability import get_logger

__all__ = [
    "CHECK_EVERY_S",
    "Manifest",
    "Member",
    "Membership",
    "Policy",
    "Revocation",
    "read_manifest",
    "write_manifest",
]

log = get_logger(__name__)

CHECK_EVERY_S: Final = 1.0

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
        raw = read_regular(path)
    except FileNotFoundError as error:
        raise IdentityError(
            f"no community manifest at {path}: {error.strerror}", hint="create a community with: hearthnet init"
        ) from error
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}", hint=hint_for(error)) from error
    hint = "fetch it again from a member, or from a backup: hearthnet doctor --check community_present"
    try:
        manifest = Manifest.parse(raw)
    except IdentityError as error:
        raise IdentityError(f"{path}: {error.message}", hint=hint) from error
    if not manifest.is_valid():
        raise IdentityError(f"{path} is not signed by its community's root key", hint=hint)
    return manifest


class Membership:
    """The manifest of a running node.

    The file is checked for changes on use, once a second at most. A new manifest is loaded if it is complete, signed by
    the same community's root and not older. Otherwise the old one stays and a warning gives the reason: a truncated
    or restored file admits no one.

    Args:
        directory: the community's folder.
        clock: monotonic seconds; for tests.

    Raises:
        IdentityError: raised when there is no usable manifest.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._checked_at = clock()
        self._state = self._file_state()  # before reading it: a write meanwhile is seen at the next check
        self._manifest = read_manifest(directory)

    def manifest(self) -> Manifest:
        """Returns the current manifest."""
        if self._clock() - self._checked_at >= CHECK_EVERY_S:
            self._checked_at = self._clock()
            self._reload_if_changed()
        return self._manifest

    def level_of(self, node_id: str) -> Level | None:
        """Returns the current level of a node, None for a non-member."""
        return self.manifest().level_of(node_id)

    def _reload_if_changed(self) -> None:
        state = self._file_state()
        if state == self._state:
            return
        self._state = state  # also of an unusable one: it is logged once, and tried again after the next change
        try:
            found = read_manifest(self._directory)
            self._check(found)
        except IdentityError as error:
            log.warning("changed manifest is unusable, the old one stays", extra={"error": error.message})
            return
        self._manifest = found
        log.info("manifest reloaded", extra={"members": len(found.members), "revoked": len(found.revoked)})

    def _check(self, found: Manifest) -> None:
        if found.community_id != self._manifest.community_id:
            raise IdentityError("it belongs to another community")
        if found.head_lamport < self._manifest.head_lamport:
            raise IdentityError("it is older than the current one")

    def _file_state(self) -> tuple[int, ...] | None:
        """Returns values that change when the file is replaced, written, or made readable; None if it is missing."""
        with suppress(OSError):
            status = (self._directory / MANIFEST_FILE).stat()
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return None
