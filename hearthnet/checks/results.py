"""Helpers for checks: their results, short lists and counts in words, the folder of the keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hearthnet.config import Config
from hearthnet.observability.doctor import CheckResult

__all__ = ["MAX_NAMES", "format_names", "found", "keys_dir", "skipped", "warned"]

MAX_NAMES: Final = 3  # as many as fit on a line


def found(ok: bool, detail: str, fix: str | None = None, **evidence: object) -> CheckResult:
    """Returns a pass, or a failure with its fix."""
    return CheckResult("", ok=ok, detail=detail, fix=None if ok else fix, evidence=evidence)


def warned(detail: str, fix: str | None = None, **evidence: object) -> CheckResult:
    """Returns a warning."""
    return CheckResult("", ok=True, detail=detail, fix=fix, status="warn", evidence=evidence)


def skipped(detail: str, **evidence: object) -> CheckResult:
    """Returns a skip: there was nothing to measure."""
    return CheckResult("", ok=True, detail=detail, status="skip", evidence=evidence)


def format_names(names: Sequence[str]) -> str:
    """Returns the first `MAX_NAMES` names and the number of the others."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def keys_dir(config: Config) -> Path:
    """Returns the folder of the key pair."""
    return config.identity.keys_dir or Path("keys")
