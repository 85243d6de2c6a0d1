"""Where the doctor's findings come from: the running node, or the disk where none answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hearthnet import __version__
from hearthnet.checks.probes.lock_owner import lock_holders
from hearthnet.checks.settings import unusable
from hearthnet.cli.client import NodeClient, Response
from hearthnet.config import Config
from hearthnet.errors import ConfigError
from hearthnet.locations import locations_of
from hearthnet.observability import doctor
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.records.record import bounded, clean_text
from hearthnet.observability.store.lock import LOCK_FILE

__all__ = ["Findings", "NoSettings", "diagnose"]

_NO_NODE: Final = "no node of ours answers: read from the disk"
STATUS_TIMEOUT_S: Final = 3.0  # a node answers within milliseconds, one on a busy Raspberry Pi within a second
# The node's own deadline for its checks, and what it may take to answer when all of them used it up.
CHECKS_TIMEOUT_S: Final = doctor.DEADLINE_S + STATUS_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class NoSettings:
    """Why the settings in a file cannot be used."""

    error: ConfigError
    path: Path


@dataclass(slots=True)
class Findings:
    """What the checks found, and where.

    Attributes:
        results: of each check, with the keys of the JSON report.
        note: in words where they come from.
        source: `node` or `disk`.
        program: the version of the program that ran the checks.
        pid: of the node, also of one that does not answer.
        moment: when they were made.
        duration_ms: how long that took.
    """

    results: list[dict[str, Any]]
    note: str
    source: str = "disk"
    program: str = __version__
    pid: int | None = None
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))
    duration_ms: float = 0.0


def diagnose(config: Config | NoSettings, only: Sequence[str]) -> Findings:
    """Returns what the checks in `only`, or all, found: in the node if it answers, else from the disk."""
    started = time.monotonic()
    found = _unconfigured(config) if isinstance(config, NoSettings) else _ask(config, only)
    found.duration_ms = round((time.monotonic() - started) * 1_000, 3)
    return found


def _unconfigured(given: NoSettings) -> Findings:
    """Returns the one finding that there is without settings."""
    found = unusable(given.error, given.path)
    fix = None if found.fix is None else clean_text(found.fix)
    evidence = bounded(found.evidence)
    result = replace(found, name="config_file", detail=clean_text(found.detail), fix=fix, evidence=evidence)
    return Findings([result.as_dict()], "the settings cannot be used, so nothing else was checked")


def _ask(config: Config, only: Sequence[str]) -> Findings:
    client = NodeClient(locations_of(config))
    waited_s = STATUS_TIMEOUT_S
    try:
        status = client.get("/status", timeout_s=waited_s)
        if not client.is_ours(status):
            return _from_disk(config, only, _NO_NODE)
        waited_s = CHECKS_TIMEOUT_S
        answer = client.get("/doctor", timeout_s=waited_s, check=list(only))
    except TimeoutError:
        return _silent(config, only, waited_s)
    except OSError:
        return _from_disk(config, only, _NO_NODE)
    return _from_node(status, answer, config, only)


def _from_node(status: Response, answer: Response, config: Config, only: Sequence[str]) -> Findings:
    about = {} if status.is_error else status.json()
    pid, program = about.get("pid"), str(about.get("version", __version__))
    # A check that this program has and the node has not: the node was started before an update.
    if answer.is_error:
        found = _from_disk(config, only, f"the node answered with {answer.status}: read from the disk")
        found.pid = pid
        return found
    return Findings(answer.json(), f"asked {_named(pid)}", source="node", program=program, pid=pid)


def _silent(config: Config, only: Sequence[str], waited_s: float) -> Findings:
    """Returns what the disk tells of a node that is there and says nothing, and that this is so."""
    assert config.observability.data_dir is not None
    # The lock itself is not tried: a node that starts at this moment would find it taken.
    holders = lock_holders(config.observability.data_dir / LOCK_FILE)
    pid, port = holders[0].pid if holders else None, config.transport.port
    if pid is None:
        note = f"what listens on port {port} did not answer within {waited_s:g} s: read from the disk"
        return _from_disk(config, only, note)
    silence = f"the node (pid {pid}) did not answer within {waited_s:g} s"
    found = _from_disk(config, only, f"{silence}: read from the disk")
    found.pid = pid
    if not only:
        # Whatever it hangs in, this ends it; what it recorded is in its black box, and the next start takes it in.
        detail = f"{silence}; what it recorded is kept when it is killed: then start it again"
        evidence = {"pid": pid, "port": port}
        result = CheckResult("node_answers", ok=False, detail=detail, fix=f"kill -KILL {pid}", evidence=evidence)
        found.results.insert(0, result.as_dict())
    return found


def _from_disk(config: Config, only: Sequence[str], note: str) -> Findings:
    return Findings([result.as_dict() for result in doctor.run_all(config, only=only)], note)


def _named(pid: object) -> str:
    return "the node" if pid is None else f"the node, pid {pid}"
