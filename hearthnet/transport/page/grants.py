"""Who may use the page: tokens to claim, secrets of browsers, and for how long it is shared; in `page.json`.

The file is in the data folder with mode 0600. The one who can write it owns the node: `hearthnet page` writes the hash
of a token there, the node replaces it by the hash of a secret when a browser claims it. Only hashes are stored.

Guarantees:
    - A token works once, also if two browsers claim it at the same moment: a writer holds a `flock` on the folder.
    - A change by another process counts from the next request on: the file is replaced, and its identity is compared.
    - A damaged file grants nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from hearthnet.files import make_private_dir, open_file, replace_in

__all__ = ["GRANTS_FILE", "MAX_SHARE_S", "OPENING_FILE", "SECRET_S", "TOKEN_S", "Granted", "Grants"]

GRANTS_FILE: Final = "page.json"
OPENING_FILE: Final = "page.html"  # goes on to a link; its token works once
TOKEN_S: Final = 600.0  # to open the link
SECRET_S: Final = 30 * 86_400.0  # then the browser needs a new link
MAX_SHARE_S: Final = 86_400.0
_SECRET_BYTES: Final = 32  # 256 bits
_MAX_PRESENTED_CHARS: Final = 128
# The newest of each are kept: a script that makes links must not grow the file.
_MAX_TOKENS: Final = 32
_MAX_SECRETS: Final = 64
_MAX_FILE_BYTES: Final = 65_536
_S: Final = 1_000_000  # microseconds

_Identity = tuple[int, int, int, int]


class Granted(NamedTuple):
    """A secret for a browser, and when it ends, UTC microseconds."""

    secret: str
    until_us: int


@dataclass(slots=True)
class _State:
    """The content of the file: hashes with their ends in UTC microseconds, and when sharing ends."""

    tokens: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, int] = field(default_factory=dict)
    shared_until_us: int = 0


class Grants:
    """The grants of one page. Any thread may call its methods.

    Args:
        directory: the folder of the file; None: they are kept in memory, for a page that ends with its process.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        # With the identity of its file: one value, because several threads replace it.
        self._seen: tuple[_Identity | None, _State] = (None, _State())
        self._lock = threading.Lock()

    def offer(self) -> str:
        """Returns a new token, which can be claimed once within `TOKEN_S`.

        Raises:
            OSError: raised when the file cannot be written.
        """
        token = secrets.token_urlsafe(_SECRET_BYTES)
        with self._changing() as state:
            state.tokens[_digest(token)] = _now_us() + int(TOKEN_S * _S)
        return token

    def claim(self, token: str) -> Granted | None:
        """Returns a secret for a token, which is used up then; None for one that is wrong, used or too old.

        Raises:
            OSError: raised when the file cannot be written.
        """
        if _found(token, self._current().tokens) is None:
            return None
        secret, until_us = secrets.token_urlsafe(_SECRET_BYTES), _now_us() + int(SECRET_S * _S)
        with self._changing() as state:
            found = _found(token, state.tokens)
            if found is None:  # another browser was faster
                return None
            del state.tokens[found]
            state.secrets[_digest(secret)] = until_us
        return Granted(secret, until_us)

    def holder(self, secret: str) -> str | None:
        """Returns the hash of a valid secret, for `has`; None for any other text. Takes 10 us."""
        return _found(secret, self._current().secrets)

    def has(self, holder: str) -> bool:
        """Returns whether a holder's secret is still valid."""
        return self._current().secrets.get(holder, 0) > _now_us()

    def share(self, seconds: float) -> int:
        """Lets other machines use the page for a while; returns the end in UTC microseconds.

        Raises:
            OSError: raised when the file cannot be written.
        """
        with self._changing() as state:
            state.shared_until_us = _now_us() + int(min(seconds, MAX_SHARE_S) * _S)
            return state.shared_until_us

    def shared_until_us(self) -> int | None:
        """Returns until when other machines may use the page, UTC microseconds; None if they may not."""
        until_us = self._current().shared_until_us
        return until_us if until_us > _now_us() else None

    def revoke(self) -> int:
        """Ends everything that was granted; returns how many browsers had a valid secret.

        Raises:
            OSError: raised when the file cannot be written.
        """
        with self._changing() as state:
            count = len(state.secrets)
            state.tokens, state.secrets, state.shared_until_us = {}, {}, 0
        return count

    @contextmanager
    def _changing(self) -> Iterator[_State]:
        """Yields the present state, without what has ended; stores it afterwards."""
        if self.directory is None:
            with self._lock:
                state = _tidy(self._seen[1])
                yield state
                self._seen = None, state
            return
        make_private_dir(self.directory)
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # held for one write
            state = _tidy(self._read())
            yield state
            # One that root writes is the folder's owner's, whose node must read it.
            owner = os.fstat(folder)
            replace_in(folder, GRANTS_FILE, _packed(state), (owner.st_uid, owner.st_gid))
        finally:
            os.close(folder)

    def _current(self) -> _State:
        """Returns the state as it is now; one `stat` unless the file was replaced."""
        seen, state = self._seen
        if self.directory is None:
            return state
        try:
            status = (self.directory / GRANTS_FILE).stat()
        except OSError:
            return _State()
        identity = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if identity != seen:
            try:
                state = self._read()
            except OSError:  # for the moment: too many files are open, or root is about to give it to this user
                return _State()
            self._seen = identity, state
        return state

    def _read(self) -> _State:
        assert self.directory is not None
        try:
            with open_file(self.directory / GRANTS_FILE) as file:
                return _parsed(file.read(_MAX_FILE_BYTES))
        except FileNotFoundError:  # no grant was made yet
            return _State()


def _now_us() -> int:
    return time.time_ns() // 1_000


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _found(presented: str, known: dict[str, int]) -> str | None:
    """Returns the hash of a presented text if it is known and has not ended; compares in constant time."""
    digest, now, found = _digest(presented[:_MAX_PRESENTED_CHARS]), _now_us(), None
    for one, until_us in known.items():
        if hmac.compare_digest(one, digest) and until_us > now:
            found = one
    return found


def _tidy(state: _State) -> _State:
    """Returns a copy without what has ended, and the oldest of too many; leaves space for one more."""
    return _State(_newest(state.tokens, _MAX_TOKENS), _newest(state.secrets, _MAX_SECRETS), state.shared_until_us)


def _newest(kept: dict[str, int], limit: int) -> dict[str, int]:
    now = _now_us()
    newest = sorted((until_us, one) for one, until_us in kept.items() if until_us > now)[1 - limit :]
    return {one: until_us for until_us, one in newest}


def _packed(state: _State) -> bytes:
    content = {"tokens": state.tokens, "secrets": state.secrets, "shared_until_us": state.shared_until_us}
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)


def _parsed(content: bytes) -> _State:
    try:
        value = orjson.loads(content)
        return _State(_ends(value["tokens"]), _ends(value["secrets"]), int(value["shared_until_us"]))
    except (ValueError, KeyError, TypeError, AttributeError):  # written by hand
        return _State()


def _ends(value: dict[str, int]) -> dict[str, int]:
    return {str(one): int(until_us) for one, until_us in value.items()}
