"""Private files: folders of mode 0700, files of mode 0600 whatever the umask; written whole, or not at all; and mounts.

At a name of ours there may be anything: a pipe, a device, a folder, or a link to one of them. `open_regular` opens
regular files only, so reading never waits and nothing is written into a device.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

__all__ = [
    "Foreign",
    "Mount",
    "NotRegularError",
    "create_private",
    "create_whole",
    "exact_folder",
    "foreign",
    "hint_for",
    "is_accessible",
    "is_of_root",
    "lock_folder",
    "locked_folder",
    "make_private_dir",
    "mount_of",
    "move_aside_hint",
    "name_new",
    "open_file",
    "open_regular",
    "owner_of",
    "packaged",
    "private_temporary",
    "read_in",
    "read_regular",
    "replace_in",
    "replace_private",
    "replace_readable",
    "sync_folder",
    "why_no_file",
    "why_not_regular",
]

_KINDS: Final = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}

_MAX_NAMED: Final = 12  # files of another owner in a hint
_LOCK_POLL_S: Final = 0.02
_NODE_HOME: Final = "hearthnet"
_NODE_FOLDERS: Final = ("blobs", "communities", "imported", "keys", "log")
_NODE_FILE: Final = re.compile(  # and the temporary ones, whose names begin with a dot
    r"\.?(?:telemetry\..+|(?:config\.toml|doctor\.jsonl|doctor-notify\.json|export\.json|page\.(?:json|html)"
    r"|manifest\.json|events\.sqlite"
    r"|replays\.bin|device\.(?:ed25519|pub))(?:-.+)?|export\.lock|\d{4}-\d\d-\d\d(?:\.\d+)?\.log)"
)
_DANGLING: Final = "it is a link to nothing, not a file"


def why_not_regular(mode: int) -> str | None:
    """Returns why `st_mode` is not that of a regular file, such as `it is a pipe, not a file`; None if it is."""
    kind = stat.S_IFMT(mode)
    return None if kind == stat.S_IFREG else f"it is {_KINDS.get(kind, 'something else')}, not a file"


def why_no_file(path: Path) -> str | None:
    """Returns why the thing at `path` is no regular file, in words; None if it is one, or there is nothing."""
    try:
        return why_not_regular(path.stat().st_mode)
    except FileNotFoundError:
        return _DANGLING if path.is_symlink() else None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


class NotRegularError(OSError):
    """Raised instead of opening something that is not a regular file."""


def hint_for(error: OSError) -> str | None:
    """Returns what to do about a file that cannot be opened: move it aside, or take it back from its owner; or None."""
    path = error.filename
    if not isinstance(path, str):
        return None
    if isinstance(error, NotRegularError):
        return move_aside_hint(path)
    found = foreign(path) if isinstance(error, PermissionError) else None
    return None if found is None else found.hint


def move_aside_hint(path: str | os.PathLike[str]) -> str:
    """Returns the hint to move away the thing in the way at `path`."""
    import shlex  # late: seldom needed

    return f"move it aside: mv {shlex.quote(os.fspath(path))} {shlex.quote(f'{os.fspath(path)}.aside')}"


class Foreign(NamedTuple):
    """That a file is another user's, in words, and the command that takes it back."""

    reason: str
    command: str

    @property
    def hint(self) -> str:
        """Both, as a hint."""
        return f"{self.reason}: {self.command}"


def foreign(path: str | os.PathLike[str]) -> Foreign | None:
    """Returns how to take a file back that we may not use from its owner, such as root after a run with `sudo`.

    Below a folder of ours, what else of that owner is in its way or beside it is named as well, if it is a node's.

    Returns:
        None if we may use it, or are root, whom nothing keeps from it; and for what may be no file of a node.
    """
    import pwd  # late: seldom needed
    import shlex

    me = os.geteuid()
    at, owner = _reached(Path(path))
    if owner is None or owner == me or me == 0 or is_accessible(at):
        return None
    places, recursively = _all_of(at, owner)
    if not places:
        return None
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"uid {owner}"
    which = "it" if os.fspath(places[0]) == os.fspath(path) else places[0]
    # Only files of that owner, and no target of a link: a folder may have changed when the command runs.
    command = f"sudo chown {recursively}-h --from={owner} {me} {shlex.join(map(str, places))}"
    return Foreign(f"{which} belongs to {name}", command)


def packaged(name: str) -> str:
    """Returns the text of a file of this package, which Python may run from a zip file."""
    from pkgutil import get_data  # late: only pages and tables of commands need it

    return (get_data("hearthnet", name) or b"").decode()


def owner_of(path: Path) -> int | None:
    """Returns the user that a file belongs to; None if there is none."""
    try:
        return path.stat().st_uid
    except OSError:
        return None


def is_of_root(path: Path) -> bool:
    """Returns whether root alone can change or replace a file: it, its folders, and the links that lead to it."""
    lexical = path.absolute()
    resolved = path.resolve()
    try:
        found = [step.lstat() for step in {lexical, *lexical.parents, resolved, *resolved.parents}]
    except OSError:
        return False
    # In a sticky folder, such as /tmp, a file is replaced by its owner alone.
    return all(
        status.st_uid == 0
        and (stat.S_ISLNK(status.st_mode) or not status.st_mode & stat.S_IWOTH or bool(status.st_mode & stat.S_ISVTX))
        for status in found
    )


def is_accessible(path: Path) -> bool:
    """Returns whether we may read and write a file, or list a folder and make files in it."""
    try:
        mode = os.R_OK | os.W_OK | (os.X_OK if stat.S_ISDIR(path.stat().st_mode) else 0)
    except OSError:  # gone, or below a folder that we may not enter
        return False
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _reached(path: Path) -> tuple[Path, int | None]:
    """Returns a path, or the nearest folder above it that can be seen, and its owner; None if there is no such file."""
    try:
        return path, os.lstat(path).st_uid
    except PermissionError:
        return _reached(path.parent)
    except OSError:
        return path, None


def _all_of(path: Path, owner: int) -> tuple[list[Path], str]:
    """Returns what has to be taken back with a path: a node's folder of that owner, or the files beside it.

    And the option for a folder's content. Nothing if the path may be no file of a node: a disk, a link, a file with a
    second name elsewhere.
    """
    of_owner = list(takewhile(lambda one: _is_folder_of(one, owner), path.parents))
    beyond = path.parents[len(of_owner)] if len(of_owner) < len(path.parents) else None
    is_below_ours = beyond is not None and _reached(beyond)[1] == os.geteuid()
    is_folder = _is_folder_of(path, owner)
    of_node = [one for one in ([path] if is_folder else []) + of_owner if _is_node_folder(one) and not _has_mounts(one)]
    if is_below_ours and of_node:
        return [of_node[-1]], "-R "
    if is_folder:  # one that can be listed would have shown that it is a node's; one elsewhere may be someone's home
        return ([path] if is_below_ours and not _names_in(path) and not _has_mounts(path) else []), ""
    if not _is_node_file_of(path, owner):
        return [], ""
    beside = sorted(path.with_name(name) for name in _names_in(path.parent) or ()) if is_below_ours else []
    return [path, *(one for one in beside if one != path and _is_node_file_of(one, owner))][:_MAX_NAMED], ""


def _is_folder_of(path: Path, owner: int) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == owner


def _is_node_file_of(path: Path, owner: int) -> bool:
    """Returns whether a file is one of a node's by its name, that owner's, and has no other name."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    is_plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    return is_plain and status.st_uid == owner and _NODE_FILE.fullmatch(path.name) is not None


def _is_node_folder(path: Path) -> bool:
    """Returns whether a folder is a node's alone: by what it holds, or where that cannot be seen, by its name."""
    if path.name in _NODE_FOLDERS and _is_node_folder(path.parent):
        return True
    names = _names_in(path)
    if not names:
        return path.name == _NODE_HOME
    return all(name in _NODE_FOLDERS or _NODE_FILE.fullmatch(name) for name in names)


def _names_in(folder: Path) -> list[str] | None:
    try:
        return [one.name for one in folder.iterdir()]
    except OSError:  # we may not list it
        return None


def _has_mounts(folder: Path) -> bool:
    """Returns whether another file system is mounted at a folder or below it."""
    whole = Path(os.path.realpath(folder))
    return os.path.ismount(whole) or any(mount.point.is_relative_to(whole) for mount in _mounts(_MOUNTS))


def _check_regular(path: str | os.PathLike[str], mode: int) -> None:
    if (reason := why_not_regular(mode)) is not None:
        raise NotRegularError(errno.EINVAL, reason, os.fspath(path))


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Returns a descriptor of a regular file, or of a link to one, without ever waiting for another program.

    With `O_CREAT` a missing file is created with mode 0600, and also the missing target of a link; with `O_NOFOLLOW` a
    link is refused. Usable as `opener` of `open`.

    Raises:
        NotRegularError: raised when it is something else.
        OSError: raised when it cannot be opened.
    """
    while True:
        try:
            # Before it is opened, which alone may start a device, or let the writer of a pipe go on.
            _check_regular(path, Path(path).stat().st_mode)
            fd = os.open(path, flags & ~os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            if not flags & os.O_CREAT or flags & os.O_NOFOLLOW:
                if Path(path).is_symlink():
                    raise NotRegularError(errno.EINVAL, _DANGLING, os.fspath(path)) from None
                if not flags & os.O_CREAT:
                    raise
            with suppress(FileExistsError):  # created by another process meanwhile
                return create_private(path if flags & os.O_NOFOLLOW else os.path.realpath(path), flags)
            continue
        try:
            _check_regular(path, os.fstat(fd).st_mode)  # it may have been replaced since
        except OSError:
            os.close(fd)
            raise
        return fd


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file, or a link to one, to read.

    Raises:
        OSError: raised as by `open_regular`.
    """
    return open(path, "rb", opener=open_regular)


def read_regular(path: Path) -> bytes:
    """Returns the content of a regular file.

    Raises:
        OSError: raised as by `open_regular`.
    """
    with open_file(path) as file:
        return file.read()


def create_private(path: str | os.PathLike[str], flags: int = os.O_RDWR) -> int:
    """Creates a file of mode 0600 and returns its descriptor.

    Raises:
        OSError: raised when it cannot be created; FileExistsError when there is anything of that name.
    """
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    _make_private(fd)
    return fd


def _make_private(fd: int) -> None:
    with suppress(OSError):  # a file system without modes
        os.fchmod(fd, 0o600)  # a umask may have taken away even our own access


def private_temporary(path: Path) -> tuple[int, Path]:
    """Creates a file of mode 0600 that may be renamed to `path`; returns its descriptor and its path.

    Raises:
        OSError: raised when it cannot be created.
    """
    import tempfile  # late: it imports a dozen modules

    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    _make_private(fd)
    return fd, Path(temporary)


def make_private_dir(directory: Path) -> None:
    """Creates `directory` and missing parents, each with mode 0700; existing ones stay unchanged.

    Raises:
        OSError: raised when one cannot be created.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if path.is_dir():  # created by another process meanwhile
                continue
            raise NotADirectoryError(errno.ENOTDIR, "it is a link to nothing, not a folder", str(path)) from None
        with suppress(PermissionError):  # a file system without modes
            path.chmod(0o700)  # a umask may have taken away even our own access


def replace_private(path: Path, content: bytes, *, is_synced: bool = True) -> None:
    """Writes a file of mode 0600 atomically: after a crash it has the old content or the new one.

    Without syncing it is faster, but after a power loss the file may be empty or, on some file systems, damaged.

    Raises:
        OSError: raised when the file cannot be written; the old content is then untouched.
    """
    make_private_dir(path.parent)
    _replace(path, _written(path, content, 0o600, is_synced=is_synced))


def replace_in(folder: int, name: str, content: bytes, owner: tuple[int, int] | None = None) -> None:
    """Writes a file of mode 0600 atomically in an open folder, as `replace_private` does, and gives it to its owner.

    Whatever becomes of the folder's path, root writes into this folder alone, and gives away only what it has made.

    Args:
        folder: a descriptor.
        name: of the file; a link of that name is replaced.
        content: of the file.
        owner: user and group that it is to belong to, if root writes it; None: it stays ours.

    Raises:
        OSError: raised when the file cannot be written; the old content is then untouched.
    """
    temporary = f".{name}-{os.urandom(8).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            _make_private(fd)
            if owner is not None and os.geteuid() == 0:
                with suppress(OSError):  # a file system without owners
                    os.fchown(fd, *owner)
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise


def read_in(folder: int, name: str, limit: int) -> bytes:
    """Returns the content of a regular file in an open folder; no link is followed, and nothing waited for.

    Raises:
        NotRegularError: raised when it is something else.
        OSError: raised when it cannot be read, is a link, or is larger than `limit` bytes.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        _check_regular(name, os.fstat(fd).st_mode)
        file = os.fdopen(fd, "rb")
    except OSError:
        os.close(fd)
        raise
    with file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    return content


def exact_folder(path: Path) -> int:
    """Returns a descriptor of a folder of ours that no other user can enter; a link is none.

    Raises:
        OSError: raised when there is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077:
        return fd
    os.close(fd)
    raise PermissionError(errno.EACCES, "other users can enter it, or it is theirs", str(path))


def replace_readable(path: Path, content: bytes) -> None:
    """Writes a file of mode 0644 in an existing folder atomically, unsynced: for other users' programs to read.

    Raises:
        OSError: raised when the file cannot be written; the old content is then untouched.
    """
    _replace(path, _written(path, content, 0o644, is_synced=False))


def _replace(path: Path, temporary: Path) -> None:
    try:
        temporary.replace(path)
    except BaseException:
        _discard(temporary)
        raise


def create_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Writes a new file in an existing folder: under its name it is whole, also after a crash, or absent.

    Raises:
        OSError: raised when it cannot be written; FileExistsError when there is anything of that name.
    """
    temporary = _written(path, content, mode)
    try:
        name_new(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(path.parent)


def _written(path: Path, content: bytes, mode: int, *, is_synced: bool = True) -> Path:
    """Returns a temporary file beside `path` with this content; if it cannot be written, nothing of it stays."""
    descriptor, temporary = private_temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if mode != 0o600:
                os.fchmod(file.fileno(), mode)
            if is_synced:
                os.fsync(file.fileno())
    except BaseException as error:
        _discard(temporary)
        if isinstance(error, OSError) and error.errno:  # one in writing does not name the file, as one in opening does
            error.filename = error.filename or os.fspath(path)
        raise
    return temporary


def _discard(temporary: Path) -> None:
    with suppress(FileNotFoundError):
        temporary.unlink()


def name_new(temporary: Path, path: Path) -> None:
    """Renames a file to a name that must be free.

    Raises:
        OSError: raised when it cannot be renamed; FileExistsError when there is anything of that name.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.rename(path)
    else:
        temporary.unlink()


@contextmanager
def locked_folder(directory: Path, wait_s: float) -> Iterator[int]:
    """Holds a lock on a folder, for programs of ours that read a file in it, change it and write it anew.

    Yields:
        Its descriptor.

    Raises:
        OSError: raised when the folder cannot be opened; TimeoutError when another program holds it for `wait_s`.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock_folder(fd, directory, wait_s)
        yield fd
    finally:
        os.close(fd)


def lock_folder(fd: int, directory: Path, wait_s: float) -> None:
    """Locks an open folder, until its descriptor is closed.

    Raises:
        TimeoutError: raised when another program holds it for `wait_s`.
    """
    ends_at = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_at:
                raise TimeoutError(errno.ETIMEDOUT, "another program of ours keeps it locked", str(directory)) from None
            time.sleep(_LOCK_POLL_S)
        else:
            return


def sync_folder(directory: Path) -> None:
    """Syncs a folder's list of files."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_MOUNTS: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mounted file system: where, and its type, such as `ext4`."""

    point: Path
    kind: str


def mount_of(path: Path, table: Path = _MOUNTS) -> Mount | None:
    """Returns the mount that `path` is on: the deepest, and of those at one point the last, which hides the others.

    A bind mount has the device number of the file system that it is part of, so that number does not tell.
    None if the system has no table of mounts.
    """
    wanted, best = path.resolve(), None
    for mount in _mounts(table):
        is_deeper = best is None or len(mount.point.parts) >= len(best.point.parts)
        if is_deeper and wanted.is_relative_to(mount.point):
            best = mount
    return best


def _mounts(table: Path) -> Iterator[Mount]:
    """Yields all mounts; none if the system has no table of them."""
    try:
        lines = table.read_bytes().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        before, _, behind = line.partition(b" - ")
        raw = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), before.split()[4])  # a space is \040 there
        yield Mount(Path(os.fsdecode(raw)), os.fsdecode(behind.split()[0]))
