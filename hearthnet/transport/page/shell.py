"""The files of the page: a shell without data at `/`, and modules whose path has their version.

The version changes with the files, so a browser keeps each for ever, and never mixes those of two versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
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


@dataclass(frozen=True, slots=True)
class _Files:
    """The files as this process serves them; `by_name` has content and type."""

    version: str
    shell: str
    by_name: dict[str, tuple[bytes, str]]


@cache
def _files() -> _Files:
    """Reads all files, once: an upgrade beneath a running process must not mix two versions. 1 ms of CPU."""
    by_name = {name: (path.read_bytes(), _TYPES[path.suffix]) for name, path in _paths()}
    html = _SHELL.read_text("utf-8")
    digest = hashlib.sha256(html.encode())
    for name, (content, _) in by_name.items():
        digest.update(f"\n{name} {len(content)}\n".encode() + content)
    version = f"{__version__}-{digest.hexdigest()[:8]}"
    return _Files(version, html.replace(_VERSION_MARK, version), by_name)


def _paths() -> Iterator[tuple[str, Path]]:
    """Yields each file with its name below the version."""
    for prefix, folder in _FOLDERS.items():
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix in _TYPES:
                yield f"{prefix}/{path.name}" if prefix else path.name, path


def page_version() -> str:
    """Returns the version of the files, which is of their content: another one after an upgrade and a restart."""
    return _files().version


def file_of(version: str, name: str) -> tuple[bytes, str] | None:
    """Returns the content and type of a file, or None if there is none of that name, or not in that version."""
    found = _files()
    return found.by_name.get(name) if version == found.version else None


def shell() -> str:
    """Returns the HTML of `/`."""
    return _files().shell
