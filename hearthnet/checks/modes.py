"""The check of file modes: the node creates all its files for their owner only, and they should still be so."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.results import found, warned
from hearthnet.config import Config, default_path
from hearthnet.display import counted
from hearthnet.identity.keys import PUBLIC_FILE
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.logs.daily_file import log_key, log_paths
from hearthnet.observability.otel.export.status import FILE as STATUS_FILE
from hearthnet.observability.otel.export.status import LOCK_FILE as EXPORT_LOCK
from hearthnet.observability.reports.report_file import MEMORY_FILE
from hearthnet.transport.page.grants import GRANTS_FILE, OPENING_FILE

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["Deviation", "deviations_of", "file_modes", "owner_of"]

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_PUBLIC_MODES: Final = (0o600, 0o644)
_PATTERNS: Final = ("telemetry.*", f"{MEMORY_FILE}*", GRANTS_FILE, OPENING_FILE, STATUS_FILE, EXPORT_LOCK)
_OTHERS: Final = 0o077
_MAX_ENTRIES: Final = 20_000  # a folder of blobs may hold more, but the check has a deadline
_MAX_SHOWN: Final = 20
_MAX_FIX_PATHS: Final = 8  # as many as a person reads before pasting
_REPLACED: Final = (
    MEMORY_FILE,
    GRANTS_FILE,
    OPENING_FILE,
    STATUS_FILE,
)  # by a temporary one, whose name begins with a dot
_OWN_NAMES: Final = (
    "telemetry.", EXPORT_LOCK, *(prefix + name for name in _REPLACED for prefix in ("", ".")),
    "keys", "communities", "blobs", "log",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Deviation:
    """A file or folder of ours whose mode or owner has changed.

    Attributes:
        path: its path.
        mode: its mode in octal, four digits.
        expected: the mode that it was created with.
        is_loose: whether other users have any access.
        is_open: loose and exposing records: not a folder, whose files are still protected, and not the settings,
            which hold no secret.
        uid: its owner, if that is not the owner of its folder.
    """

    path: str
    mode: str
    expected: str
    is_loose: bool
    is_open: bool
    uid: int | None = None


WithStatus = tuple[Path, os.stat_result]


def file_modes(config: Config, _: CapabilityBus | None) -> CheckResult:
    """All files of the node have mode 0600, in folders of mode 0700."""
    checked, deviations = deviations_of(config)
    evidence: dict[str, Any] = {
        "looked_at": checked,
        "count": len(deviations),
        "loose": sum(item.is_loose for item in deviations),
        "deviations": [asdict(item) for item in deviations[:_MAX_SHOWN]],
    }
    if not deviations:
        return found(True, f"{counted(checked, 'file or folder', 'files and folders')}, all private", **evidence)
    first = deviations[0]
    problem = f"has mode {first.mode}, not {first.expected}"
    if first.mode == first.expected:
        problem = f"belongs to uid {first.uid}, but its folder does not"
    more = f" (and {len(deviations) - 1} more)" if len(deviations) > 1 else ""
    detail, fix = f"{first.path} {problem}{more}", _fix(deviations)
    return found(False, detail, fix, **evidence) if first.is_open else warned(detail, fix, **evidence)


def deviations_of(config: Config) -> tuple[int, list[Deviation]]:
    """Returns the number of files and folders of ours, and those that deviate, worst first."""
    settings = config.source or default_path()
    ours = dict(islice(_ours(config, settings), _MAX_ENTRIES))
    checked = (_deviation(path, status, is_settings=path == settings) for path, status in ours.items())
    deviations = [item for item in checked if item is not None]
    return len(ours), sorted(deviations, key=lambda item: (not item.is_open, not item.is_loose))


def _ours(config: Config, settings: Path) -> Iterator[WithStatus]:
    """Yields each file and folder that this node wrote, with its status. Links are not followed."""
    yield from _with_status(settings)
    if (data_dir := config.observability.data_dir) is not None:
        yield from _folder_and(data_dir, chain.from_iterable(_glob(data_dir, name) for name in _PATTERNS))
    if (log_dir := config.observability.log_dir) is not None:
        yield from _folder_and(log_dir, log_paths(log_dir))
    for root in (config.identity.keys_dir, config.community.state_dir, config.file.blobs_dir):
        if root is not None:
            yield from _below(root)


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return list(folder.glob(pattern))
    except OSError:  # below a folder that we may not enter
        return []


def _folder_and(folder: Path, files: Iterable[Path]) -> Iterator[WithStatus]:
    # A setting may point at a shared folder, /var/log say, which must stay open.
    if not _has_other_files(folder):
        yield from _with_status(folder)
    for file in sorted(files):
        yield from _with_status(file)


def _has_other_files(folder: Path) -> bool:
    try:
        entries = islice(folder.iterdir(), _MAX_ENTRIES)
        return any(not entry.name.startswith(_OWN_NAMES) and log_key(entry) is None for entry in entries)
    except OSError:  # missing, or not readable
        return False


def _below(root: Path) -> Iterator[WithStatus]:
    yield from _with_status(root)
    for folder, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            yield from _with_status(Path(folder) / name)


def _with_status(path: Path) -> Iterator[WithStatus]:
    try:
        status = path.lstat()
    except OSError:  # never created, gone since it was listed, or in a folder that we may not enter
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
    """Returns the owner of a file if its folder has another one, as after a node was run once with `sudo`."""
    try:
        return status.st_uid if path.parent.stat().st_uid != status.st_uid else None
    except OSError:  # gone, with its folder
        return None


def _fix(deviations: Sequence[Deviation]) -> str:
    """Returns one line of commands for the first few deviations; it ends by running the check for the rest."""
    shown = deviations[:_MAX_FIX_PATHS]
    commands = []
    for expected in dict.fromkeys(item.expected for item in shown):
        paths = [item.path for item in shown if item.expected == expected != item.mode]
        if paths:
            commands.append(f"{_sudo(paths)}chmod {expected.lstrip('0')} {shlex.join(paths)}")
    strange = [item.path for item in shown if item.uid is not None]
    for folder in dict.fromkeys(str(Path(path).parent) for path in strange):
        inside = [path for path in strange if str(Path(path).parent) == folder]
        commands.append(f"sudo chown --reference={shlex.quote(folder)} {shlex.join(inside)}")
    if len(deviations) > len(shown):
        commands.append("hearthnet doctor --check file_modes")
    return " && ".join(commands)


def _sudo(paths: Sequence[str]) -> str:
    me = os.geteuid()
    return "" if me == 0 or all(owner_of(path) == me for path in paths) else "sudo "


def owner_of(path: str | Path) -> int | None:
    """Returns the uid of a file's owner; None if it is gone, or in a folder that we may not enter."""
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None
