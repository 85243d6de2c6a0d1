"""Who belongs at present: the manifest in its file, taken up when it was replaced, for a revocation cannot wait."""

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

__all__ = ["LOOK_EVERY_S", "Membership"]

log = get_logger(__name__)

LOOK_EVERY_S: Final = 1.0


class Membership:
    """The manifest of a running node.

    The file is looked at when somebody asks, once a second at most. What is whole, signed by the same community's root
    and not older is taken up; else the manifest that is known stays, and a warning says why: a file that was cut, or
    put back, takes nobody in.

    Args:
        directory: the community's folder.
        clock: monotonic seconds; tests hand in their own.

    Raises:
        IdentityError: raised when there is no manifest that can be used.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._looked_at = clock()
        self._state = self._file_state()  # before it is read: what is written meanwhile is seen the next time
        self._manifest = read_manifest(directory)

    def manifest(self) -> Manifest:
        """Returns the manifest that holds now."""
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = self._clock()
            self._look()
        return self._manifest

    def level_of(self, node_id: str) -> Level | None:
        """Returns the level that a node has now, None for one that does not belong."""
        return self.manifest().level_of(node_id)

    def _look(self) -> None:
        state = self._file_state()
        if state == self._state:
            return
        self._state = state  # of one that cannot be used as well: it is told once, and tried again when it changes
        try:
            found = read_manifest(self._directory)
            self._check(found)
        except IdentityError as error:
            log.warning("changed manifest cannot be used, the old one is", extra={"error": error.message})
            return
        self._manifest = found
        log.info("manifest taken up", extra={"members": len(found.members), "revoked": len(found.revoked)})

    def _check(self, found: Manifest) -> None:
        if found.community_id != self._manifest.community_id:
            raise IdentityError("it is another community's")
        if found.head_lamport < self._manifest.head_lamport:
            raise IdentityError("it is older than the one that is known")

    def _file_state(self) -> tuple[int, ...] | None:
        """Returns what tells that the file was replaced, written, or opened to us; None: it is gone."""
        with suppress(OSError):
            status = (self._directory / MANIFEST_FILE).stat()
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return None
