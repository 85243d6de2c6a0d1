"""Checks of free disk space and of the log folder.

The checks write nothing: they ask the system, and a running node knows how many log lines it dropped.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.probes.lock_owner import user_name
from hearthnet.checks.results import found, warned
from hearthnet.config import Config
from hearthnet.display import counted, size
from hearthnet.files import foreign, mount_of
from hearthnet.observability import logging as node_logging
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.logs.daily_file import log_key, log_paths

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["FileSystem", "check_disks", "disk_space", "file_system_of", "log_directory", "out_of_space"]

MIN_FREE_BYTES: Final = 1_000_000_000
MIN_FREE_INODES: Final = 1_000  # a hundred times what a node needs for a day's logs, a box and a database
_SHOW_MOST_FILES: Final = "sudo du -x --inodes --max-depth=3 {} | sort -n | tail -n 20"
_SHOW_LARGEST: Final = "sudo du -xh --max-depth=2 {} | sort -h | tail -n 20"


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system and our folders on it.

    Attributes:
        mount: its mount point.
        folders: names of settings.
        total_bytes: its size.
        free_bytes: for a program without privileges.
        total_inodes: 0 if the file system allocates them on demand (btrfs, zfs).
        free_inodes: for a program without privileges.
        is_read_only: whether it is mounted read-only.
    """

    mount: str
    folders: tuple[str, ...]
    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int
    is_read_only: bool


def disk_space(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The file systems of the node's files are writable and have at least 1 GB and 1000 inodes free."""
    return check_disks(config, file_system_of)


def check_disks(config: Config, stat_file_system: Callable[[Path], FileSystem]) -> CheckResult:
    """Returns the finding about the file systems of our folders.

    Args:
        config: names the folders.
        stat_file_system: returns the figures for an existing folder, without `folders`.
    """
    systems = _systems(_folders(config), stat_file_system)
    evidence: dict[str, Any] = {
        "free_bytes": min(system.free_bytes for system in systems),
        "file_systems": [asdict(system) for system in systems],
    }
    broken = [(system, problem) for system in systems if (problem := _problem_of(system))]
    if broken:
        return found(False, "; ".join(problem for _, problem in broken), _fix(broken[0][0]), **evidence)
    return found(True, "; ".join(map(_format_free, systems)), **evidence)


def file_system_of(folder: Path) -> FileSystem:
    """Returns the figures of the file system of `folder`.

    Raises:
        OSError: raised when the folder is not accessible.
    """
    figures = os.statvfs(folder)
    return FileSystem(
        mount=str(_mount_of(folder)),
        folders=(),
        total_bytes=figures.f_blocks * figures.f_frsize,
        free_bytes=figures.f_bavail * figures.f_frsize,
        total_inodes=figures.f_files,
        free_inodes=figures.f_favail,
        is_read_only=bool(figures.f_flag & os.ST_RDONLY),
    )


def _mount_of(folder: Path) -> Path:
    if (found := mount_of(folder)) is not None:
        return found.point
    mount = folder.resolve()
    device = mount.stat().st_dev
    while mount != mount.parent and mount.parent.stat().st_dev == device:
        mount = mount.parent
    return mount


def _folders(config: Config) -> dict[str, Path]:
    """Returns each folder that the node writes to, by its setting; for a missing one, its nearest existing parent."""
    folders = {
        "data_dir": config.observability.data_dir,
        "log_dir": config.observability.log_dir,
        "blobs_dir": config.file.blobs_dir,
        "state_dir": config.community.state_dir,
        "keys_dir": config.identity.keys_dir,
    }
    return {name: _existing(path) for name, path in folders.items() if path is not None} or {"data_dir": Path.home()}


def _existing(path: Path) -> Path:
    # Not `exists`, which raises below a folder that we may not enter.
    return next((parent for parent in (path, *path.parents) if os.access(parent, os.F_OK)), Path("/"))


def _systems(folders: Mapping[str, Path], stat_file_system: Callable[[Path], FileSystem]) -> list[FileSystem]:
    names: dict[str, list[str]] = {}
    systems: dict[str, FileSystem] = {}
    for name, folder in folders.items():
        system = stat_file_system(folder)
        systems.setdefault(system.mount, system)
        names.setdefault(system.mount, []).append(name)
    return [FileSystem(**{**asdict(system), "folders": tuple(names[mount])}) for mount, system in systems.items()]


def _problem_of(system: FileSystem) -> str | None:
    ours = ", ".join(system.folders)
    if system.is_read_only:
        return f"{system.mount} ({ours}) is read-only"
    if _is_short_of_inodes(system):
        return f"{system.free_inodes} of {system.total_inodes} inodes free at {system.mount}, for {ours}"
    if system.free_bytes < MIN_FREE_BYTES:
        return f"{_format_free(system)}, for {ours}"
    return None


def _is_short_of_inodes(system: FileSystem) -> bool:
    """Returns whether inodes are the problem: too few, and bytes are enough, or none at all."""
    few = bool(system.total_inodes) and system.free_inodes < MIN_FREE_INODES
    return few and (system.free_bytes >= MIN_FREE_BYTES or not system.free_inodes)


def _fix(system: FileSystem) -> str:
    mount = shlex.quote(system.mount)
    if system.is_read_only:
        # The kernel remounts a failing disk read-only: find out why before writing to it again.
        return f"sudo dmesg --level=err,warn | tail -n 20 && sudo mount -o remount,rw {mount}"
    if _is_short_of_inodes(system):
        return _SHOW_MOST_FILES.format(mount)
    return _SHOW_LARGEST.format(mount)


def out_of_space(folder: Path) -> tuple[str, str] | None:
    """Returns why nothing can be created in `folder`, and the command that helps; None if its disk is not the reason.

    Raises:
        OSError: raised when the folder is not accessible.
    """
    system = file_system_of(folder)
    if system.is_read_only:
        return f"{system.mount} is read-only", _fix(system)
    if not system.free_bytes:
        return f"the disk at {system.mount} is full", _SHOW_LARGEST.format(shlex.quote(system.mount))
    if system.total_inodes and not system.free_inodes:
        return f"all inodes at {system.mount} are in use", _SHOW_MOST_FILES.format(shlex.quote(system.mount))
    return None


def _format_free(system: FileSystem) -> str:
    free = system.free_bytes
    size = f"{free / 1e9:.1f} GB" if free >= MIN_FREE_BYTES else f"{free / 1e6:.1f} MB"
    return f"{size} free at {system.mount}"


_MAX_ENTRIES: Final = 20_000  # the log folder may hold a great many other files


def log_directory(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The log folder can be written, and a running node drops no log lines."""
    folder = config.observability.log_dir or Path()
    quoted = shlex.quote(str(folder))
    if not os.access(folder, os.F_OK):  # not `exists`, which raises below a folder that we may not enter
        trouble = uncreatable(folder)
        counts = {"files": 0, "bytes": 0} if trouble is None else {}
        text, fix = trouble or ("nothing logged yet", None)
        return found(trouble is None, text, fix, path=str(folder), **counts)
    if not folder.is_dir():
        return found(False, f"{folder} is not a folder", f"mv {quoted} {quoted}.old", path=str(folder))
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return found(False, f"{folder} cannot be written: {_why_not(folder)}", _fix_access(folder), path=str(folder))
    logs = log_paths(folder)
    evidence = _log_evidence(folder, logs)
    locked = [path for path in logs[-1:] if not os.access(path, os.W_OK)]
    if locked:
        return found(False, f"{locked[0]} cannot be written: {_why_not(locked[0])}", _fix_access(locked[0]), **evidence)
    if short := out_of_space(folder):
        return found(False, f"no new file can be made in {folder}: {short[0]}", short[1], **evidence)
    if bus is not None and (problem := _problem_of_running_node(folder, logs)):
        return warned(problem, "hearthnet doctor --check disk_space", **evidence)
    detail = f"{counted(len(logs), 'file')}, {size(evidence['bytes'])}"
    if evidence["foreign"]:
        detail += f"; {counted(evidence['foreign'], 'other file')} beside them"
    return found(True, detail, **evidence)


def uncreatable(folder: Path) -> tuple[str, str] | None:
    """Returns why a folder that is missing cannot be made, and the command that makes it; None if it can."""
    parent = next((path for path in folder.absolute().parents if os.access(path, os.F_OK)), Path("/"))
    if os.access(parent, os.W_OK | os.X_OK) and parent.is_dir():
        return None
    # Whether there is a folder cannot be seen below one that we may not enter.
    is_closed = parent.is_dir() and not os.access(parent, os.X_OK)
    problem = "cannot be reached" if is_closed else "is missing and cannot be created"
    why = _why_not(parent)
    about = f"{parent} {why.removeprefix('it ')}" if why.startswith("it ") else why
    fix = f"sudo install -d -m 700 -o {user_name(os.geteuid())} {shlex.quote(str(folder))}"
    if (other := foreign(parent)) is not None and " -R " in other.command:  # a node's folder, below one of ours
        fix = other.command
    return f"{folder} {problem}: {about}", fix


def _log_evidence(folder: Path, logs: Sequence[Path]) -> dict[str, Any]:
    entries = list(islice(folder.iterdir(), _MAX_ENTRIES))
    today = datetime.now(UTC).date()
    return {
        "path": str(folder),
        "files": len(logs),
        "bytes": sum(_bytes_of(path) for path in logs),
        "foreign": sum(log_key(path) is None for path in entries),
        "newest": logs[-1].name if logs else None,
        "has_today": any(key[0] == today for path in logs if (key := log_key(path)) is not None),
    }


def _problem_of_running_node(folder: Path, logs: Sequence[Path]) -> str | None:
    """Returns why this node's lines do not reach the folder. A quiet node writes none for days: that is fine."""
    lost = node_logging.dropped_lines()
    if lost:
        return f"{counted(lost, 'line')} could not be written to the log since the node started"
    file = node_logging.log_file()
    if file is not None and file.directory == folder and file.shed_lines:
        return f"the disk is nearly full: {counted(file.shed_lines, 'line')} below a warning dropped from the log"
    if file is not None and file.directory == folder and not logs:
        return "the node is running, but its log file is gone"
    if missed := node_logging.missed_records():
        return f"the program's own set-up of logging kept {counted(missed, 'record')} from the log"
    return None


def _why_not(path: Path) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "the file system is read-only"
    status = path.stat()
    me = user_name(os.geteuid())
    return f"it belongs to uid {status.st_uid} and has mode {stat.S_IMODE(status.st_mode):04o}; this process is {me}"


def _fix_access(path: Path) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"sudo mount -o remount,rw $(findmnt -n -o TARGET --target {shlex.quote(str(path))})"
    owner = path.stat().st_uid
    if owner == os.geteuid():
        return f"chmod u+rwX {shlex.quote(str(path))}"
    if path.is_dir() and _has_files_of_others(path):  # /var/log, say, which must stay as it is
        return "set [observability] log_dir to a folder of the node's own: hearthnet paths shows the settings"
    recursively = "-R " if path.is_dir() else ""
    return f"sudo chown {recursively}-h --from={owner} {user_name(os.geteuid())} {shlex.quote(str(path))}"


def _has_files_of_others(folder: Path) -> bool:
    """Returns whether a folder has other files than our logs, or may have: it cannot be listed."""
    try:
        return any(log_key(entry) is None for entry in islice(folder.iterdir(), _MAX_ENTRIES))
    except OSError:
        return True


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the oldest was removed since it was listed
        return 0
