"""How a check says what it found, and where a node's keys lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hearthnet.config import Config
from hearthnet.observability.doctor import CheckResult

__all__ = ["MAX_NAMES", "few", "found", "keys_dir", "skipped", "warned"]

MAX_NAMES: Final = 3  # what fits a line


def found(ok: bool, detail: str, fix: str | None = None, **evidence: object) -> CheckResult:
    """Returns a pass, or a failure with its fix."""
    return CheckResult("", ok=ok, detail=detail, fix=None if ok else fix, evidence=evidence)


def warned(detail: str, fix: str | None = None, **evidence: object) -> CheckResult:
    """Returns what is not wrong, and yet should be known."""
    return CheckResult("", ok=True, detail=detail, fix=fix, status="warn", evidence=evidence)


def skipped(detail: str, **evidence: object) -> CheckResult:
    """Returns why there was nothing to measure."""
    return CheckResult("", ok=True, detail=detail, status="skip", evidence=evidence)


def few(names: Sequence[str]) -> str:
    """Returns the first names, as many as fit a line, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def keys_dir(config: Config) -> Path:
    """Returns the folder of the key pair."""
    return config.identity.keys_dir or Path("keys")
