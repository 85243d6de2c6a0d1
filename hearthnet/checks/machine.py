"""The check of the machine's disks: what is free where our files lie, and whether it can be written."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hearthnet.bus.bus import CapabilityBus
from hearthnet.checks.finding import found
from hearthnet.config import Config
from hearthnet.observability.doctor import CheckResult

__all__ = ["FileSystem", "disk_space", "file_system_of", "judge_disks"]

MIN_FREE_BYTES: Final = 1_000_000_000
MIN_FREE_INODES: Final = 1_000  # a file each for a day's logs, a box and a database, a hundred times over
_LOOK_FOR_SPACE: Final = "sudo du -xh --max-depth=2 {} | sort -h | tail -n 20"


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system, and which of our folders lie on it.

    Attributes:
        mount: where it begins.
        folders: names of settings.
        total_bytes: its size.
        free_bytes: for a program without privileges.
        total_inodes: 0 where the file system makes them as it needs them (btrfs, zfs).
        free_inodes: as for bytes.
        is_read_only: nothing can be written.
    """

    mount: str
    folders: tuple[str, ...]
    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int
    is_read_only: bool


def disk_space(config: Config, _: CapabilityBus | None) -> CheckResult:
    """1 GB and 1000 inodes free or more where our files lie, and writable."""
    return judge_disks(config, file_system_of)


def judge_disks(config: Config, look: Callable[[Path], FileSystem]) -> CheckResult:
    """Returns the finding about every file system that our folders lie on, each looked at once.

    Args:
        config: names the folders.
        look: gives the figures for a folder that exists; its `folders` are filled in here.
    """
    systems = _systems(_folders(config), look)
    evidence: dict[str, Any] = {
        "free_bytes": min(system.free_bytes for system in systems),
        "file_systems": [asdict(system) for system in systems],
    }
    broken = [(system, what) for system in systems if (what := _what_is_wrong(system))]
    if broken:
        return found(False, "; ".join(what for _, what in broken), _fix(broken[0][0]), **evidence)
    return found(True, "; ".join(map(_told, systems)), **evidence)


def file_system_of(folder: Path) -> FileSystem:
    """Returns the figures of the file system that `folder` is on.

    Raises:
        OSError: raised when the folder cannot be looked at.
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
    place = folder.resolve()
    device = place.stat().st_dev
    while place != place.parent and place.parent.stat().st_dev == device:
        place = place.parent
    return place


def _folders(config: Config) -> dict[str, Path]:
    """Returns every folder that the node writes to, by its setting; of one that is missing, where it would be made."""
    named = {
        "data_dir": config.observability.data_dir,
        "log_dir": config.observability.log_dir,
        "blobs_dir": config.file.blobs_dir,
        "state_dir": config.community.state_dir,
        "keys_dir": config.identity.keys_dir,
    }
    return {name: _there(path) for name, path in named.items() if path is not None} or {"data_dir": Path.home()}


def _there(path: Path) -> Path:
    # Not `exists`, which raises below a folder that we may not enter.
    return next((place for place in (path, *path.parents) if os.access(place, os.F_OK)), Path("/"))


def _systems(folders: Mapping[str, Path], look: Callable[[Path], FileSystem]) -> list[FileSystem]:
    names: dict[str, list[str]] = {}
    systems: dict[str, FileSystem] = {}
    for name, folder in folders.items():
        system = look(folder)
        systems.setdefault(system.mount, system)
        names.setdefault(system.mount, []).append(name)
    return [FileSystem(**{**asdict(system), "folders": tuple(names[mount])}) for mount, system in systems.items()]


def _what_is_wrong(system: FileSystem) -> str | None:
    ours = ", ".join(system.folders)
    if system.is_read_only:
        return f"{system.mount} ({ours}) is read-only"
    if system.free_bytes < MIN_FREE_BYTES:
        return f"{_told(system)}, for {ours}"
    if system.total_inodes and system.free_inodes < MIN_FREE_INODES:
        return f"{system.free_inodes} of {system.total_inodes} inodes free at {system.mount}, for {ours}"
    return None


def _fix(system: FileSystem) -> str:
    mount = shlex.quote(system.mount)
    if system.is_read_only:
        # The kernel does that when the disk fails: see why before writing to it again.
        return f"sudo dmesg --level=err,warn | tail -n 20 && sudo mount -o remount,rw {mount}"
    if system.free_bytes >= MIN_FREE_BYTES and system.total_inodes and system.free_inodes < MIN_FREE_INODES:
        return f"sudo du -x --inodes --max-depth=3 {mount} | sort -n | tail -n 20"
    return _LOOK_FOR_SPACE.format(mount)


def _told(system: FileSystem) -> str:
    free = system.free_bytes
    told = f"{free / 1e9:.1f} GB" if free >= MIN_FREE_BYTES else f"{free / 1e6:.1f} MB"
    return f"{told} free at {system.mount}"
