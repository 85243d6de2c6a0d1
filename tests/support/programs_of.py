"""Programs of a few lines of shell, which stand in for those of a system."""

from __future__ import annotations

from pathlib import Path


def script(path: Path, body: str) -> Path:
    """Writes an executable script."""
    path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    path.chmod(0o755)
    return path
