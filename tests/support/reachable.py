"""Folders of a test that another user is to reach: pytest closes those that it makes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["reachable"]


def reachable(path: Path) -> None:
    """Lets every user pass through a folder, and through those above it that are root's, but for `/tmp` itself."""
    for folder in (path, *path.parents):
        if folder.owner() == "root" and len(folder.parts) > 2:
            folder.chmod(0o755)
