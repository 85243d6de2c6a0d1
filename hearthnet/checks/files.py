"""The check of the log folder: that it can be written, and that what is logged arrives there.

Nothing is written to find out: the system is asked, and a running node knows what it lost.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.finding import found, warned
from hearthnet.config import Config
from hearthnet.observability import logging as node_logging
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.logfile import log_key, log_paths

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["log_directory"]

_MAX_LOOKED_AT: Final = 20_000  # somebody may have put the log among a great many other files


def log_directory(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The log folder can be written, and where a node runs no line of its log is lost."""
    folder = config.observability.log_dir or Path()
    quoted = shlex.quote(str(folder))
    if not os.access(folder, os.F_OK):  # not `exists`, which raises below a folder that we may not enter
        return _missing_log_directory(folder)
    if not folder.is_dir():
        return found(False, f"{folder} is no folder", f"mv {quoted} {quoted}.old", path=str(folder))
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return found(False, f"{folder} cannot be written: {_why_not(folder)}", _fix_access(folder), path=str(folder))
    logs = log_paths(folder)
    evidence = _log_evidence(folder, logs)
    locked = [path for path in logs[-1:] if not os.access(path, os.W_OK)]
    if locked:
        return found(False, f"{locked[0]} cannot be written: {_why_not(locked[0])}", _fix_access(locked[0]), **evidence)
    if bus is not None and (trouble := _trouble_of_running_node(folder, logs)):
        return warned(trouble, "hearthnet doctor --check disk_space", **evidence)
    detail = f"{len(logs)} file(s), {evidence['bytes'] / 1e6:.1f} MB"
    if evidence["foreign"]:
        detail += f"; {evidence['foreign']} there not ours"
    return found(True, detail, **evidence)


def _missing_log_directory(folder: Path) -> CheckResult:
    parent = next((path for path in folder.absolute().parents if os.access(path, os.F_OK)), Path("/"))
    if os.access(parent, os.W_OK | os.X_OK) and parent.is_dir():
        return found(True, "nothing logged yet", path=str(folder), files=0, bytes=0)
    detail = f"{folder} is missing and cannot be made: {_why_not(parent)}"
    fix = f"sudo install -d -m 700 -o {_user()} {shlex.quote(str(folder))}"
    return found(False, detail, fix, path=str(folder))


def _log_evidence(folder: Path, logs: Sequence[Path]) -> dict[str, Any]:
    entries = list(islice(folder.iterdir(), _MAX_LOOKED_AT))
    today = datetime.now(UTC).date()
    return {
        "path": str(folder),
        "files": len(logs),
        "bytes": sum(_size(path) for path in logs),
        "foreign": sum(log_key(path) is None for path in entries),
        "newest": logs[-1].name if logs else None,
        "has_today": any(key[0] == today for path in logs if (key := log_key(path)) is not None),
    }


def _trouble_of_running_node(folder: Path, logs: Sequence[Path]) -> str | None:
    """Returns what keeps this node's lines from the folder. A quiet node writes none for days: that is no trouble."""
    lost = node_logging.lost_lines()
    if lost:
        return f"{lost} line(s) could not be written to the log since the node started"
    file = node_logging.log_file()
    if file is not None and file.directory == folder and file.shed_lines:
        return f"the disk is nearly full: {file.shed_lines} line(s) below a warning were left out of the log"
    if file is not None and file.directory == folder and not logs:
        return "the node runs, and its log file is gone"
    return None


def _why_not(path: Path) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "the file system is read-only"
    status = path.stat()
    return f"it belongs to uid {status.st_uid}, has mode {stat.S_IMODE(status.st_mode):04o}, and this is {_user()}"


def _fix_access(path: Path) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"sudo mount -o remount,rw $(findmnt -n -o TARGET --target {shlex.quote(str(path))})"
    if path.stat().st_uid == os.geteuid():
        return f"chmod u+rwX {shlex.quote(str(path))}"
    folder = path if path.is_dir() else path.parent
    return f"sudo chown -R {_user()} {shlex.quote(str(folder))}"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user often has no name
        return str(os.geteuid())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the oldest went since it was listed
        return 0
