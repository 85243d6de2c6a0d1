"""What a run was measured on, and what the kernel counts of this process."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

__all__ = ["describe", "file_system", "written_bytes"]

_LIBRARIES: Final = (
    "hearthnet", "aiosqlite", "orjson", "prometheus_client", "opentelemetry-sdk", "logfire", "structlog", "loguru",
    "python-json-logger",
)  # fmt: skip
_IO: Final = Path("/proc/self/io")


def describe(folder: Path) -> dict[str, Any]:
    """Returns the versions and the machine that figures depend on; `folder` is where the databases lie."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "libraries": ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "file system": file_system(folder),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def file_system(folder: Path) -> str:
    """Returns the type of the file system that `folder` is on, `unknown` where the system does not say."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return "unknown"
    wanted = folder.resolve()
    best, kind = -1, "unknown"
    for mount in mounts:
        before, _, behind = mount.partition(" - ")
        point = before.split()[4]
        if wanted.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), behind.split()[0]
    return kind


def written_bytes() -> int | None:
    """Returns the bytes that this process has had written to disks so far; None where the kernel does not count."""
    try:
        lines = _IO.read_text("ascii").splitlines()
    except OSError:
        return None
    counts = dict(line.split(": ") for line in lines)
    return int(counts["write_bytes"]) if "write_bytes" in counts else None
