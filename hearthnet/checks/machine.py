"""The check of the machine's disks: what is free where our files lie, and until when at the present rate.

Telemetry is bounded and says nothing about that rate; others fill the disk. It comes from the doctor's own memory, the
free bytes of the last day's reports.
"""

from __future__ import annotations

import os
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.finding import found, warned
from hearthnet.config import Config
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.doctor_memory import Remembered, recall

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["FileSystem", "disk_space", "file_system_of", "full_in_s", "judge_disks"]

MIN_FREE_BYTES: Final = 1_000_000_000
MIN_FREE_INODES: Final = 1_000  # a file each for a day's logs, a box and a database, a hundred times over
MIN_APART_S: Final = 600.0  # what changes within less is somebody's temporary file
RATE_OVER_S: Final = 86_400.0
FULL_SOON_S: Final = 3 * 86_400.0  # a long weekend
MAX_SAMPLES: Final = 48  # their pairs are what is counted; two days of an hourly cron job
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


Sample = tuple[float, int]  # seconds since 1970, free bytes


def disk_space(config: Config, _: CapabilityBus | None) -> CheckResult:
    """1 GB and 1000 inodes free or more where our files lie, writable, and not full within three days."""
    return judge_disks(config, file_system_of, time.time())


def judge_disks(config: Config, look: Callable[[Path], FileSystem], now_s: float) -> CheckResult:
    """Returns the finding about every file system that our folders lie on, each looked at once.

    Args:
        config: names the folders.
        look: gives the figures for a folder that exists; its `folders` are filled in here.
        now_s: seconds since 1970.
    """
    systems = _systems(_folders(config), look)
    data_dir = config.observability.data_dir
    memory = [] if data_dir is None else _recalled(data_dir)
    left_s = {system.mount: full_in_s(_samples(memory, system), now_s, system.free_bytes) for system in systems}
    evidence: dict[str, Any] = {
        "free_bytes": min(system.free_bytes for system in systems),
        "file_systems": [{**asdict(system), "full_in_s": left_s[system.mount]} for system in systems],
    }
    broken = [(system, what) for system in systems if (what := _what_is_wrong(system))]
    if broken:
        return found(False, "; ".join(what for _, what in broken), _fix(broken[0][0]), **evidence)
    soon = [system for system in systems if (left_s[system.mount] or FULL_SOON_S) < FULL_SOON_S]
    if soon:
        detail = "; ".join(f"{_told(system)}, full {_in(left_s[system.mount])} at the present rate" for system in soon)
        return warned(detail, _fix(soon[0]), **evidence)
    return found(True, "; ".join(_told(system) + _later(left_s[system.mount]) for system in systems), **evidence)


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


def _later(left_s: float | None) -> str:
    return "" if left_s is None or left_s > 365 * 86_400 else f" (full {_in(left_s)} at the present rate)"


def _in(left_s: float | None) -> str:
    hours = (left_s or 0.0) / 3_600
    return f"in {hours:.0f} h" if hours < 72 else f"in {hours / 24:.0f} days"


def full_in_s(samples: Sequence[Sample], now_s: float, free_bytes: int) -> float | None:
    """Returns in how many seconds nothing is free, or None where that cannot be told or it is not filling up.

    The rate is the median of the rates between all pairs of samples that lie ten minutes apart or more: a file that
    came and went within the day does not decide it.
    """
    of_today = sorted(sample for sample in samples if 0 <= now_s - sample[0] <= RATE_OVER_S)[-MAX_SAMPLES:]
    row = [*of_today, (now_s, free_bytes)]
    rates = [
        (earlier_free - later_free) / (later_s - earlier_s)
        for number, (later_s, later_free) in enumerate(row)
        for earlier_s, earlier_free in row[:number]
        if later_s - earlier_s >= MIN_APART_S
    ]
    rate = statistics.median(rates) if rates else 0.0
    return free_bytes / rate if rate > 0 else None


def _recalled(data_dir: Path) -> list[Remembered]:
    try:
        return recall(data_dir)
    except OSError:  # not ours to read: then there is no rate, and `file_modes` says why
        return []


def _samples(memory: Sequence[Remembered], system: FileSystem) -> list[Sample]:
    """Returns what earlier reports say was free on the same file system; whatever else they hold is left out."""
    samples = []
    for report in memory:
        for known in _file_systems_in(report.checks.get("disk_space", {})):
            free = known.get("free_bytes")
            # Another disk may be mounted there by now.
            is_same = known.get("mount") == system.mount and known.get("total_bytes") == system.total_bytes
            if is_same and isinstance(free, int):
                samples.append((report.ts.timestamp(), free))
    return samples


def _file_systems_in(check: Mapping[str, Any]) -> list[dict[str, Any]]:
    evidence = check.get("evidence")
    known = evidence.get("file_systems") if isinstance(evidence, dict) else None
    return [item for item in known if isinstance(item, dict)] if isinstance(known, list) else []
