"""`export.json` beside the store: what the exporting process does at present, for `telemetry info` and the doctor.

The database has how far the export has come; why it comes no further only that process knows, and the file has it while
it lasts. It has addresses and counts, no header.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

from hearthnet.files import read_regular, replace_private

__all__ = ["FILE", "read_status", "write_status"]

FILE: Final = "export.json"


def write_status(directory: Path, status: dict[str, Any]) -> None:
    """Replaces the file.

    Raises:
        OSError: raised when it cannot be written.
    """
    replace_private(directory / FILE, orjson.dumps(status))


def read_status(directory: Path) -> dict[str, Any]:
    """Returns the content of the file; empty if there is none, or it is damaged."""
    try:
        found = orjson.loads(read_regular(directory / FILE))
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
