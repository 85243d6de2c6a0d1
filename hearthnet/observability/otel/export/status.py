"""`export.json` beside the store: what the exporting process does at present, for `telemetry info` and the doctor.

The database has how far the export has come; why it comes no further only that process knows, and the file has it while
it lasts. It has addresses and counts, no header.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

from hearthnet.files import read_regular, replace_private

__all__ = ["FILE", "LOCK_FILE", "read_status", "write_status"]

FILE: Final = "export.json"
LOCK_FILE: Final = "export.lock"  # of the process that exports, beside it
_MAX_US: Final = 2**53  # the year 2255


def write_status(directory: Path, status: dict[str, Any]) -> None:
    """Replaces the file.

    Raises:
        OSError: raised when it cannot be written.
    """
    replace_private(directory / FILE, orjson.dumps(status))


def read_status(directory: Path) -> dict[str, Any]:
    """Returns the content of the file; empty if there is none, or it is damaged.

    What readers use has its shape, whatever was written there: `updated_us` a number of microseconds, `error` a text or
    None, `counts` a mapping, `troubles` by signal `words`, `since_us` and `is_misset`. What has another is absent.
    """
    try:
        found = orjson.loads(read_regular(directory / FILE))
    except (OSError, orjson.JSONDecodeError):
        return {}
    if not isinstance(found, dict):
        return {}
    counts, troubles = (_mapping(found.get(name)) for name in ("counts", "troubles"))
    return {
        **found,
        "updated_us": _us(found.get("updated_us")),
        "error": found["error"] if isinstance(found.get("error"), str) else None,
        "counts": counts,
        "troubles": {signal: _trouble(one) for signal, one in troubles.items() if isinstance(one, dict)},
    }


def _trouble(found: dict[str, Any]) -> dict[str, Any]:
    return {
        **found,
        "words": str(found.get("words") or "unknown"),
        "since_us": _us(found.get("since_us")),
        "is_misset": found.get("is_misset") is True,
    }


def _mapping(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _us(found: Any) -> int:
    """Returns a time that a calendar has; 0 for anything else."""
    return found if type(found) is int and 0 <= found < _MAX_US else 0
