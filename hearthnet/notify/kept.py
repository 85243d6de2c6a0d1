"""Where the state of the messages is kept: in the data folder, or else in a folder that lasts until the next boot.

On a full disk, and while the data folder is missing, messages matter most, so they must not depend on it. The other
folder is in memory: in this user's runtime folder, that of the unit, or in /dev/shm. It is used only if it belongs to
this user, is closed to others and is no link.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Self

from hearthnet.files import exact_folder, lock_folder, locked_folder, owner_of, read_in, replace_in

__all__ = ["STATE_FILE", "Kept"]

STATE_FILE: Final = "doctor-notify.json"
UNIT_FOLDER: Final = Path("/run/hearthnet-doctor")  # RuntimeDirectory= of the machine's unit
MEMORY: Final = Path("/dev/shm")  # noqa: S108  # each user's own folder in it
_NAME: Final = "hearthnet-doctor"
_LOCK_S: Final = 60.0  # a webhook may take its time
_MAX_BYTES: Final = 16 << 20


class Kept:
    """The state file, locked against other doctors while this is entered.

    Attributes:
        error: why the data folder does not have the state; None: it has.
        folder: the one that has it; None: none has.
    """

    def __init__(self, directory: Path) -> None:
        self.error: OSError | None = None
        self.folder: Path | None = None
        self._directory = directory
        self._open = ExitStack()
        self._data: int | None = None
        self._other: tuple[int, Path] | None = None
        self._other_name = f"{hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:16]}.json"

    def __enter__(self) -> Self:
        try:
            self._data = self._open.enter_context(locked_folder(self._directory, _LOCK_S))
        except TimeoutError:  # another doctor is at it, so the folder is well
            raise
        except OSError as error:
            self.error = error
        try:
            self._find_other(may_make=False)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def is_away(self) -> bool:
        """Whether there is no data folder."""
        return self._data is None

    def read(self) -> Iterator[bytes]:
        """Yields the contents there are: of the data folder's file, and of the other. One that cannot be read is none.

        What it holds is sent again then, which is better than never.
        """
        places = [(self._data, STATE_FILE), (self._other and self._other[0], self._other_name)]
        for folder, name in places:
            if folder is not None:
                with suppress(OSError):
                    yield read_in(folder, name, _MAX_BYTES)

    def write(self, content: bytes) -> None:
        """Writes the state to the data folder, or else to the other; `error` and `folder` say what became of it."""
        if self._data is not None:
            try:
                owner = os.fstat(self._data)
                replace_in(self._data, STATE_FILE, content, (owner.st_uid, owner.st_gid))
            except OSError as error:
                self.error = error
            else:
                self.error, self.folder = None, self._directory
                self._forget_other()
                return
        self.folder = None
        with suppress(OSError):
            self._find_other(may_make=True)
            if self._other is not None:
                replace_in(self._other[0], self._other_name, content)
                self.folder = self._other[1]

    def _find_other(self, *, may_make: bool) -> None:
        """Opens and locks the first usable of the other folders.

        Raises:
            TimeoutError: raised when another doctor holds it.
        """
        if self._other is not None:
            return
        for path in _places():
            with suppress(OSError):
                if may_make:
                    path.mkdir(mode=0o700, exist_ok=True)
                folder = exact_folder(path)
                self._open.callback(os.close, folder)
                self._other = folder, path
                break
        if self._other is not None:
            lock_folder(*self._other, _LOCK_S)

    def _forget_other(self) -> None:
        if self._other is not None:
            with suppress(OSError):
                os.unlink(self._other_name, dir_fd=self._other[0])


def _places() -> Iterator[Path]:
    """Yields where the other folder may be."""
    me = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and owner_of(Path(runtime)) == me:
        yield Path(runtime, _NAME)
    if owner_of(UNIT_FOLDER) == me:
        yield UNIT_FOLDER
    base = MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())
    yield base / f"{_NAME}-{me}"
