"""How a check says what it found, and where a node's own files lie."""

from __future__ import annotations

from pathlib import Path

from hearthnet.config import Config
from hearthnet.identity.community import community_dir
from hearthnet.identity.keys import KeyPair
from hearthnet.observability.doctor import CheckResult

__all__ = ["community_path", "found", "keys_dir", "skipped", "warned"]


def found(ok: bool, detail: str, fix: str | None = None, **evidence: object) -> CheckResult:
    """Returns a pass, or a failure with its fix."""
    return CheckResult("", ok=ok, detail=detail, fix=None if ok else fix, evidence=evidence)


def warned(detail: str, fix: str | None = None, **evidence: object) -> CheckResult:
    """Returns what is not wrong, and yet should be known."""
    return CheckResult("", ok=True, detail=detail, fix=fix, status="warn", evidence=evidence)


def skipped(detail: str, **evidence: object) -> CheckResult:
    """Returns why there was nothing to measure."""
    return CheckResult("", ok=True, detail=detail, status="skip", evidence=evidence)


def keys_dir(config: Config) -> Path:
    """Returns the folder of the key pair."""
    return config.identity.keys_dir or Path("keys")


def community_path(config: Config, keys: KeyPair) -> Path:
    """Returns the folder of the community that the node belongs to."""
    return community_dir(config.community.state_dir or Path(), config.community.community_id or keys.node_id)
