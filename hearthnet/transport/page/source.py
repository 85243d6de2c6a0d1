"""What a page shows: a store's folder, and what only its process knows. `views` makes the JSON of it.

A page costs nothing while no one uses it: its readers connect with the first request.
"""

from __future__ import annotations

import shlex
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hearthnet.constants import DATABASE
from hearthnet.errors import StoreError, WireError
from hearthnet.observability.store.migrate import schema_of
from hearthnet.observability.store.query.children import Children
from hearthnet.observability.store.reader import Reader
from hearthnet.transport.page.autopsies import Autopsies
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.page.verdict import Checks

__all__ = ["READ_S", "OldStoreError", "Page", "PageSettings"]

_PROCESSES: Final = 2  # of queries and autopsies at a time: each may take a core, and memory
_SCHEMA: Final = 7  # the first one with all columns and tables that the page reads
READ_S: Final = 5.0  # of one query: on a busy Raspberry Pi the slowest take a second


@dataclass(frozen=True, slots=True)
class PageSettings:
    """The settings of a page.

    Attributes:
        data_dir: the folder of the store.
        log_dir: the folder of the JSON logs.
        max_disk_mb: the bound of all files of telemetry.
        name: of the node or the program.
        node_id: of the node; None: it is another program's.
    """

    data_dir: Path
    log_dir: Path | None
    max_disk_mb: int
    name: str = ""
    node_id: str | None = None


class OldStoreError(StoreError):
    """Raised for a store of an older version, whose tables lack what the page shows: it only reads, so it stays so."""

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(
            f"this store was written by an older hearthnet: its schema is {version}, the page reads {_SCHEMA}",
            hint=f"hearthnet telemetry migrate {shlex.quote(str(path.parent))}",
        )


class Page:
    """A page's parts, which all its requests share.

    Args:
        settings: what it shows.
        grants: who may use it.
        doctor: runs all checks; None: it is not possible here.
        on_damage: called when a query finds damage.
    """

    def __init__(
        self,
        settings: PageSettings,
        grants: Grants,
        doctor: Callable[[], list[dict[str, Any]]] | None = None,
        on_damage: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.grants = grants
        self.children = Children()
        self.autopsies = Autopsies(settings.data_dir, settings.log_dir, self.children)
        self.checks = Checks(settings.data_dir, doctor)
        self._turns = threading.BoundedSemaphore(_PROCESSES)
        self.path = settings.data_dir / DATABASE
        self._fitting: tuple[int, int] | None = None  # the file whose schema was found to be new enough
        # Two: the stream must not wait for a search.
        self.reader = Reader(self.path, on_damage, READ_S)
        self.live = Reader(self.path, on_damage, READ_S)

    def fits(self) -> bool:
        """Returns whether this file's schema was found to be one that the page reads. One `stat`."""
        return self._fitting is not None and self._fitting == self._identity()

    def doubt(self) -> None:
        """Has the schema checked again: a query failed, and another file's content may have been copied into this."""
        self._fitting = None

    def check_schema(self) -> None:
        """Checks that the store's schema is one that the page reads. Waits up to a second for one that is locked.

        Raises:
            OldStoreError: raised when it is older.
        """
        identity = self._identity()
        try:
            version = schema_of(self.path)
        except (sqlite3.Error, StoreError):  # whatever reads it says so
            return
        if 0 < version < _SCHEMA:
            raise OldStoreError(self.path, version)
        if version:  # an empty file is about to become a store, of whatever version
            self._fitting = identity

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Lets few requests at a time start a process.

        Raises:
            WireError: raised as `capacity_exceeded` when others take too long.
        """
        if not self._turns.acquire(timeout=READ_S):
            raise WireError("capacity_exceeded", "other queries are running", retry_after_ms=1_000)
        try:
            yield
        finally:
            self._turns.release()

    def disconnect(self) -> None:
        """Closes the connections; the next query opens them again."""
        self.reader.close()
        self.live.close()

    def close(self) -> None:
        """Ends what the page has begun: a stop must not wait for an autopsy. Idempotent."""
        self.children.close()
        self.disconnect()
