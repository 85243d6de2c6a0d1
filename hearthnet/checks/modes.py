"""The check of the modes of all that a node writes: it is made for its owner alone, and should still be so."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.results import found, warned
from hearthnet.config import Config, default_path
from hearthnet.identity.keys import PUBLIC_FILE
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.logs.daily_file import log_key, log_paths
from hearthnet.observability.reports.report_file import MEMORY_FILE

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["Deviation", "deviations_of", "file_modes", "owner_of"]

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_PUBLIC_MODES: Final = (0o600, 0o644)
_OTHERS: Final = 0o077
_MAX_LOOKED_AT: Final = 20_000  # a folder of blobs may hold more; the doctor is to answer within its deadline
_MAX_SHOWN: Final = 20
_MAX_FIX_PATHS: Final = 8  # what a person still reads before pasting it
_OWN_NAMES: Final = ("telemetry.", MEMORY_FILE, f".{MEMORY_FILE}", "keys", "communities", "blobs", "log")


@dataclass(frozen=True, slots=True)
class Deviation:
    """A file or folder of ours that is not as it was made.

    Attributes:
        path: which.
        mode: in octal, four digits.
        expected: the same.
        is_loose: others than the owner may do something with it.
        is_open: loose, and what is recorded lies open: no folder, where the files in it are closed still, and not the
            settings, which hold no secret.
        uid: its owner, where that is not the owner of the folder that it lies in.
    """

    path: str
    mode: str
    expected: str
    is_loose: bool
    is_open: bool
    uid: int | None = None


Stated = tuple[Path, os.stat_result]


def file_modes(config: Config, _: CapabilityBus | None) -> CheckResult:
    """Every file of the node is for its owner alone: 0600, in folders of mode 0700."""
    looked_at, deviations = deviations_of(config)
    evidence: dict[str, Any] = {
        "looked_at": looked_at,
        "count": len(deviations),
        "loose": sum(item.is_loose for item in deviations),
        "deviations": [asdict(item) for item in deviations[:_MAX_SHOWN]],
    }
    if not deviations:
        return found(True, f"{looked_at} file(s) and folder(s), all for their owner alone", **evidence)
    first = deviations[0]
    what = f"has mode {first.mode}, not {first.expected}"
    if first.mode == first.expected:
        what = f"belongs to uid {first.uid}, and its folder to another"
    more = f" (and {len(deviations) - 1} more)" if len(deviations) > 1 else ""
    detail, fix = f"{first.path} {what}{more}", _fix(deviations)
    return found(False, detail, fix, **evidence) if first.is_open else warned(detail, fix, **evidence)


def deviations_of(config: Config) -> tuple[int, list[Deviation]]:
    """Returns how many files and folders of ours there are, and those that are not as they were made, worst first."""
    settings = config.source or default_path()
    ours = dict(islice(_ours(config, settings), _MAX_LOOKED_AT))
    found_ones = (_deviation(path, status, is_settings=path == settings) for path, status in ours.items())
    deviations = [item for item in found_ones if item is not None]
    return len(ours), sorted(deviations, key=lambda item: (not item.is_open, not item.is_loose))


def _ours(config: Config, settings: Path) -> Iterator[Stated]:
    """Yields each file and folder that this node wrote, with what the system says of it. Links are not followed."""
    yield from _stated(settings)
    if (data_dir := config.observability.data_dir) is not None:
        yield from _folder_and(data_dir, [*_named(data_dir, "telemetry.*"), *_named(data_dir, f"{MEMORY_FILE}*")])
    if (log_dir := config.observability.log_dir) is not None:
        yield from _folder_and(log_dir, log_paths(log_dir))
    for root in (config.identity.keys_dir, config.community.state_dir, config.file.blobs_dir):
        if root is not None:
            yield from _below(root)


def _named(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:  # below a folder that we may not enter
        return []


def _folder_and(folder: Path, files: Iterable[Path]) -> Iterator[Stated]:
    # Whoever points a setting at a folder with other things in it, /var/log say, does not want it closed.
    if not _holds_others(folder):
        yield from _stated(folder)
    for file in sorted(files):
        yield from _stated(file)


def _holds_others(folder: Path) -> bool:
    try:
        entries = islice(folder.iterdir(), _MAX_LOOKED_AT)
        return any(not entry.name.startswith(_OWN_NAMES) and log_key(entry) is None for entry in entries)
    except OSError:  # missing, or not ours to look into
        return False


def _below(root: Path) -> Iterator[Stated]:
    yield from _stated(root)
    for folder, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            yield from _stated(Path(folder) / name)


def _stated(path: Path) -> Iterator[Stated]:
    try:
        status = path.lstat()
    except OSError:  # never made, gone since it was listed, or in a folder that we may not enter
        return
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        yield path, status


def _deviation(path: Path, status: os.stat_result, *, is_settings: bool) -> Deviation | None:
    mode, is_folder = stat.S_IMODE(status.st_mode), stat.S_ISDIR(status.st_mode)
    expected = _FOLDER_MODE if is_folder else _FILE_MODE
    if path.name == PUBLIC_FILE and mode in _PUBLIC_MODES:
        expected = mode
    uid = None if is_folder or is_settings else _foreign_uid(path, status)
    if mode == expected and uid is None:
        return None
    is_loose = mode != expected and bool(mode & _OTHERS)
    is_open = is_loose and not is_folder and not is_settings
    return Deviation(str(path), f"{mode:04o}", f"{expected:04o}", is_loose, is_open, uid)


def _foreign_uid(path: Path, status: os.stat_result) -> int | None:
    """Returns the owner of a file that is another than its folder's: what a node run once by `sudo` leaves behind."""
    try:
        return status.st_uid if path.parent.stat().st_uid != status.st_uid else None
    except OSError:  # gone, with its folder
        return None


def _fix(deviations: Sequence[Deviation]) -> str:
    """Returns commands for the first few, which can be pasted as one line; it ends with the next look at the rest."""
    shown = deviations[:_MAX_FIX_PATHS]
    commands = []
    for expected in dict.fromkeys(item.expected for item in shown):
        paths = [item.path for item in shown if item.expected == expected != item.mode]
        if paths:
            commands.append(f"{_sudo(paths)}chmod {expected.lstrip('0')} {shlex.join(paths)}")
    strange = [item.path for item in shown if item.uid is not None]
    commands += [
        f"sudo chown --reference={shlex.quote(str(Path(path).parent))} {shlex.quote(path)}" for path in strange
    ]
    if len(deviations) > len(shown):
        commands.append("hearthnet doctor --check file_modes")
    return " && ".join(commands)


def _sudo(paths: Sequence[str]) -> str:
    me = os.geteuid()
    return "" if me == 0 or all(owner_of(path) == me for path in paths) else "sudo "


def owner_of(path: str | Path) -> int | None:
    """Returns the user whom a file belongs to; None where it is gone, or in a folder that we may not enter."""
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None
