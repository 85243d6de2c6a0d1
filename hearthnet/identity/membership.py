"""Current membership: the manifest, reloaded when its file changes, because a revocation cannot wait for a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from hearthnet.errors import IdentityError
from hearthnet.identity.community import MANIFEST_FILE
from hearthnet.identity.manifest import Level, Manifest, read_manifest
from hearthnet.observability import get_logger

__all__ = ["CHECK_EVERY_S", "Membership"]

log = get_logger(__name__)

CHECK_EVERY_S: Final = 1.0


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
