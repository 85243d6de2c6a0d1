"""A community's folder, and the verified id and name in its manifest, read without pydantic."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from hearthnet.files import read_regular
from hearthnet.identity.keys import verify

__all__ = ["MANIFEST_FILE", "Community", "community_dir", "signed_community", "utc_now"]

MANIFEST_FILE: Final = "manifest.json"


class Community(NamedTuple):
    """A community's id, and the name that its root gave it."""

    community_id: str
    name: str


def utc_now() -> str:
    """Returns the time as RFC 3339 UTC with milliseconds and `Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def community_dir(state_dir: Path, community_id: str) -> Path:
    """Returns the community's folder: its id with the colon, which some file systems reject, replaced."""
    return state_dir / community_id.replace(":", "_")


def signed_community(directory: Path) -> Community | None:
    """Returns the community whose root signed the manifest in `directory`.

    None means only that this is uncertain; `read_manifest` reports the problem, if there is one.
    """
    try:
        document: Any = orjson.loads(read_regular(directory / MANIFEST_FILE))
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(document, dict):
        return None
    wanted = ("community_id", "name", "root_key", "signature")
    if not all(isinstance(document.get(key), str) for key in wanted):
        return None
    community_id, name, root, signature = (document[key] for key in wanted)
    is_signed = community_id == root and verify(document, signature, root)
    return Community(community_id, name) if is_signed else None
