"""A SQLite VFS between SQLite and the disk: it records what is done to the files, and fails as disks do. ctypes alone.

    with vfs.installed() as disk:                    connections opened from here on go through it
        with disk.recording(path):                   every change of a file is appended to `path`, in its order,
            disk.mark(b"half-way")                   and the program's own marks among them
        with disk.disk_full(): …                     files cannot grow; writes in place go on
        with disk.io_error(): …                      no write, sync or truncation succeeds
        with disk.nth_fails(3, vfs.Kind.SYNC): …     one of them fails, the others do not

It becomes the default VFS of the library that the `sqlite3` module uses: a copy of the original with two functions
replaced. A file's table of methods is copied and replaced likewise when it is opened; all else is the original's.

Not seen here, and never made to fail: the memory that SQLite shares between processes (-shm), and what a program does
to the files by other means.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, addressof, c_char_p, c_int, c_int64, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

_OPEN: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_DELETE: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WRITE: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE: Final = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC: Final = CFUNCTYPE(c_int, c_void_p, c_int)
_SIZE: Final = CFUNCTYPE(c_int, c_void_p, POINTER(c_int64))


class _Methods(Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = (
        ("iVersion", c_int),
        *((name, c_void_p) for name in ("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize")),
        *((name, c_void_p) for name in ("xLock", "xUnlock", "xCheckReservedLock", "xFileControl", "xSectorSize")),
        *((name, c_void_p) for name in ("xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier")),
        *((name, c_void_p) for name in ("xShmUnmap", "xFetch", "xUnfetch")),
    )


class _Vfs(Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = (
        *((name, c_int) for name in ("iVersion", "szOsFile", "mxPathname")),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        *((name, c_void_p) for name in ("pAppData", "xOpen", "xDelete", "xAccess", "xFullPathname")),
        *((name, c_void_p) for name in ("xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness", "xSleep")),
        *((name, c_void_p) for name in ("xCurrentTime", "xGetLastError", "xCurrentTimeInt64")),
        *((name, c_void_p) for name in ("xSetSystemCall", "xGetSystemCall", "xNextSystemCall")),
    )


class Kind(IntEnum):
    """The kind of an operation."""

    OPEN = 0
    WRITE = 1
    SYNC = 2
    TRUNCATE = 3
    DELETE = 4
    MARK = 5


class Role(IntEnum):
    """The purpose of a file; the values are SQLite's own flags of xOpen."""

    MAIN = 0x100
    JOURNAL = 0x800
    WAL = 0x80000
    OTHER = 0


class Operation(NamedTuple):
    """What SQLite is about to do: a write, a sync or a truncation.

    Attributes:
        kind: of the operation.
        role: of the file.
        growth: bytes by which a write would make the file larger.
    """

    kind: Kind
    role: Role
    growth: int


Rule = Callable[[Operation], int]  # returns SQLite's error code, or 0 to let it pass

_IO_ERRORS: Final = {
    Kind.WRITE: sqlite3.SQLITE_IOERR_WRITE,
    Kind.SYNC: sqlite3.SQLITE_IOERR_FSYNC,
    Kind.TRUNCATE: sqlite3.SQLITE_IOERR_TRUNCATE,
}


class Entry(NamedTuple):
    """One line of a recording.

    Attributes:
        kind: what was done.
        at_ns: when, by the monotonic clock.
        file: a number; a file that is made again under its old name gets a new one. -1 for a mark.
        offset: of a write, or the size that a file was truncated to.
        data: what was written, the path of an opened file (empty for a temporary one), or the text of a mark.
    """

    kind: Kind
    at_ns: int
    file: int = -1
    offset: int = 0
    data: bytes = b""


_HEAD: Final = struct.Struct("<BQiqI")


def read_recording(path: Path) -> list[Entry]:
    """Returns what was recorded into `path`, in its order."""
    content = path.read_bytes()
    entries = []
    at = 0
    while at < len(content):
        kind, at_ns, file, offset, length = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        entries.append(Entry(Kind(kind), at_ns, file, offset, content[at : at + length]))
        at += length
    return entries


class _File:
    """An open file, with the original VFS's methods for it."""

    def __init__(self, number: int, role: Role, methods: _Methods) -> None:
        self.number = number
        self.role = role
        self.write = _WRITE(methods.xWrite)
        self.truncate = _TRUNCATE(methods.xTruncate)
        self.sync = _SYNC(methods.xSync)
        self.size = _SIZE(methods.xFileSize)


class Disk:
    """The VFS. A process has one, which is never freed: SQLite holds pointers into it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._default = library.sqlite3_vfs_find(None)
        original = _Vfs.from_address(self._default)
        self._original_open, self._original_delete = _OPEN(original.xOpen), _DELETE(original.xDelete)
        self._open, self._delete = _OPEN(self._on_open), _DELETE(self._on_delete)
        self._write, self._sync = _WRITE(self._on_write), _SYNC(self._on_sync)
        self._truncate = _TRUNCATE(self._on_truncate)
        self._vfs = _Vfs.from_buffer_copy(original)
        self._vfs.zName = b"faults"
        self._vfs.xOpen, self._vfs.xDelete = _address(self._open), _address(self._delete)
        self._tables: dict[int, _Methods] = {}  # ours, by the address of the original's
        self._files: dict[int, _File] = {}  # by the address of the sqlite3_file
        self._numbers: dict[bytes, int] = {}  # by path
        self._lock = threading.Lock()
        self._next_number = 0
        self._log_fd = -1
        self._rules: list[Rule] = []

    def set_default(self, is_default: bool) -> None:
        """Makes new connections use this VFS, or the original again."""
        self._library.sqlite3_vfs_register(addressof(self._vfs) if is_default else self._default, 1)

    # --- recording

    @contextmanager
    def recording(self, path: Path) -> Iterator[None]:
        """Records into a new file until the block ends; files that are already open are included from here on."""
        self._log_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            yield
        finally:
            fd, self._log_fd = self._log_fd, -1
            os.close(fd)

    def mark(self, text: bytes) -> None:
        """Writes a mark of the program's own into the recording, before the next operation."""
        self._note(Kind.MARK, -1, data=text)

    def _note(self, kind: Kind, number: int, offset: int = 0, data: bytes = b"") -> None:
        if self._log_fd >= 0:
            with self._lock:  # so that times rise in the recording
                os.write(self._log_fd, _HEAD.pack(kind, time.monotonic_ns(), number, offset, len(data)) + data)

    # --- failing

    @contextmanager
    def failing(self, rule: Rule) -> Iterator[None]:
        """Calls `rule` before each write, sync and truncation until the block ends."""
        self._rules.append(rule)
        try:
            yield
        finally:
            self._rules.remove(rule)

    def disk_full(self) -> AbstractContextManager[None]:
        """Refuses to let files grow; overwriting succeeds."""
        return self.failing(lambda operation: sqlite3.SQLITE_FULL if operation.growth else 0)

    def io_error(self) -> AbstractContextManager[None]:
        """Fails every write, sync and truncation."""
        return self.failing(lambda operation: _IO_ERRORS[operation.kind])

    def nth_fails(self, n: int, kind: Kind = Kind.WRITE) -> AbstractContextManager[None]:
        """Fails the n-th operation of this kind from here on, and no other."""
        left = n

        def rule(operation: Operation) -> int:
            nonlocal left
            left -= operation.kind is kind
            return _IO_ERRORS[kind] if left == 0 and operation.kind is kind else 0

        return self.failing(rule)

    def _error(self, kind: Kind, file: _File, growth: int = 0) -> int:
        operation = Operation(kind, file.role, growth)
        return next((code for rule in list(self._rules) if (code := rule(operation))), 0)

    # --- called by SQLite, from any thread

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: Any) -> int:
        path = ctypes.string_at(name) if name else None
        is_new = path is not None and not Path(os.fsdecode(path)).exists()
        code: int = self._original_open(vfs, name, file, flags, out_flags)
        if code == sqlite3.SQLITE_OK:
            slot = c_void_p.from_address(file)  # a sqlite3_file begins with the pointer to its methods
            methods = _Methods.from_address(slot.value or 0)
            role = next(role for role in Role if role & flags or role is Role.OTHER)
            number = self._number_of(path, is_new)
            self._note(Kind.OPEN, number, data=path or b"")
            self._files[file] = _File(number, role, methods)
            slot.value = addressof(self._table_for(methods))
        return code

    def _number_of(self, path: bytes | None, is_new: bool) -> int:
        with self._lock:
            number = None if path is None or is_new else self._numbers.get(path)
            if number is None:
                number, self._next_number = self._next_number, self._next_number + 1
            if path is not None:  # else a temporary file without a name
                self._numbers[path] = number
        return number

    def _table_for(self, methods: _Methods) -> _Methods:
        table = self._tables.get(addressof(methods))
        if table is None:
            table = self._tables[addressof(methods)] = _Methods.from_buffer_copy(methods)
            table.xWrite, table.xTruncate = _address(self._write), _address(self._truncate)
            table.xSync = _address(self._sync)
        return table

    def _on_delete(self, vfs: int, name: int, sync_directory: int) -> int:
        code: int = self._original_delete(vfs, name, sync_directory)
        number = self._numbers.pop(ctypes.string_at(name), None) if code == sqlite3.SQLITE_OK else None
        if number is not None:
            self._note(Kind.DELETE, number)
        return code

    def _on_write(self, address: int, data: int, length: int, offset: int) -> int:
        file = self._files[address]
        if self._rules:
            size = c_int64()
            file.size(address, ctypes.byref(size))
            if error := self._error(Kind.WRITE, file, max(0, offset + length - size.value)):
                return error
        code: int = file.write(address, data, length, offset)
        if code == sqlite3.SQLITE_OK:
            self._note(Kind.WRITE, file.number, offset, ctypes.string_at(data, length))
        return code

    def _on_truncate(self, address: int, size: int) -> int:
        file = self._files[address]
        code: int = self._error(Kind.TRUNCATE, file) or file.truncate(address, size)
        if code == sqlite3.SQLITE_OK:
            self._note(Kind.TRUNCATE, file.number, size)
        return code

    def _on_sync(self, address: int, flags: int) -> int:
        file = self._files[address]
        code: int = self._error(Kind.SYNC, file) or file.sync(address, flags)
        if code == sqlite3.SQLITE_OK:
            self._note(Kind.SYNC, file.number)
        return code


def _address(function: Any) -> int | None:
    return ctypes.cast(function, c_void_p).value


def _load() -> ctypes.CDLL:
    """Returns the SQLite that the `sqlite3` module calls.

    Raises:
        OSError: raised when it is not a library that can be reached.
    """
    import _sqlite3

    # Through the module's own file: symbols are looked up in what it is linked with.
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        library.sqlite3_sourceid.restype = c_char_p
        library.sqlite3_vfs_find.argtypes, library.sqlite3_vfs_find.restype = (c_char_p,), c_void_p
        library.sqlite3_vfs_register.argtypes = (c_void_p, c_int)
    except AttributeError as error:
        raise OSError("SQLite is linked into the sqlite3 module, its functions are not exported") from error
    with closing(sqlite3.connect(":memory:")) as connection:
        (used,) = connection.execute("SELECT sqlite_source_id()").fetchone()
    if library.sqlite3_sourceid().decode() != used:
        raise OSError("the SQLite library that was found is not the one that the sqlite3 module uses")
    return library


def _make() -> tuple[Disk | None, str]:
    try:
        return Disk(_load()), ""
    except OSError as error:
        return None, str(error)


_disk, UNAVAILABLE = _make()  # why there is no such VFS here, "" if there is one


@contextmanager
def installed() -> Iterator[Disk]:
    """Makes connections opened in this block use the VFS until they are closed. Not to be nested."""
    if _disk is None:
        raise RuntimeError(UNAVAILABLE)
    _disk.set_default(True)
    try:
        yield _disk
    finally:
        _disk.set_default(False)
