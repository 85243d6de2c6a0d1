"""The files of the page: a shell without data at `/`, and modules whose path has their version.

The version changes with the files, so a browser keeps each for ever, and never mixes those of two versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hearthnet import __version__

__all__ = ["CSP", "file_of", "page_version", "shell"]

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)
_STATIC: Final = Path(__file__).parent / "static"
_DRAW: Final = Path(__file__).parents[2] / "forensics" / "report" / "draw"  # also inlined in the report of a run
_FOLDERS: Final = {"": _STATIC, "draw": _DRAW}
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_SHELL: Final = _STATIC / "index.html"
_VERSION_MARK: Final = "PAGE_VERSION"  # in the shell


def _files() -> Iterator[tuple[str, Path]]:
    """Yields each file with its name below the version."""
    for prefix, folder in _FOLDERS.items():
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix in _TYPES:
                yield f"{prefix}/{path.name}" if prefix else path.name, path


def page_version() -> str:
    """Returns the version of the files: another one after an upgrade, or while they are being written. Takes 0.3 ms."""
    digest = hashlib.sha256()
    for name, path in [*_files(), ("", _SHELL)]:
        status = path.stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"{__version__}-{digest.hexdigest()[:8]}"


def file_of(version: str, name: str) -> tuple[bytes, str] | None:
    """Returns the content and type of a file, or None if there is none of that name, or not in that version."""
    path = dict(_files()).get(name)
    if path is None or version != page_version():
        return None
    return path.read_bytes(), _TYPES[path.suffix]


def shell() -> str:
    """Returns the HTML of `/`."""
    return _SHELL.read_text("utf-8").replace(_VERSION_MARK, page_version())
