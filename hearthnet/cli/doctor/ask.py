"""Sources of the doctor's findings: the running node, or else the disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hearthnet import __version__
from hearthnet.checks.probes.lock_owner import live_nodes
from hearthnet.checks.probes.silence import explain_silence
from hearthnet.checks.settings import unusable
from hearthnet.cli.client import MILLISECONDS, NodeClient, Response
from hearthnet.config import Config
from hearthnet.errors import ConfigError, HearthNetError
from hearthnet.locations import locations_of
from hearthnet.observability import doctor
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.records.record import bounded, clean_text

__all__ = ["NODE_CHECK", "Findings", "NoSettings", "diagnose"]

NODE_CHECK: Final = "node_answers"  # reported of a node that runs and does not respond

_NO_NODE: Final = "this node is not running: read from the disk"
# The parts of the node's responses that are read.
_STATUS: Final = {"pid": int, "version": str}
_RESULT: Final = {
    **dict.fromkeys(("name", "detail"), str),
    "status": ("fail", "warn", "pass", "skip"),
    "ok": bool,
    "fix": str | None,
    "evidence": dict,
    "duration_ms": MILLISECONDS,
}
STATUS_TIMEOUT_S: Final = 3.0  # a node responds within milliseconds, on a busy Raspberry Pi within a second
# The node's own deadline for its checks, plus the time to respond.
CHECKS_TIMEOUT_S: Final = doctor.DEADLINE_S + STATUS_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class NoSettings:
    """The error that makes a settings file unusable."""

    error: ConfigError
    path: Path


@dataclass(slots=True)
class Findings:
    """The results of the checks, and their source.

    Attributes:
        results: one per check, with the keys of the JSON report.
        note: the source in words.
        source: `node` or `disk`.
        program: the version of the program that ran the checks.
        pid: the node's pid, even if it does not respond.
        moment: the time of the report.
        duration_ms: how long the checks took.
    """

    results: list[dict[str, Any]]
    note: str
    source: str = "disk"
    program: str = __version__
    pid: int | None = None
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))
    duration_ms: float = 0.0


def diagnose(config: Config | NoSettings, only: Sequence[str], *, has_node: bool = True) -> Findings:
    """Runs the checks in `only`, or all: in the node if there is one and it responds, else from the disk."""
    started = time.monotonic()
    if isinstance(config, NoSettings):
        found = _unconfigured(config)
    else:
        found = _ask(config, only) if has_node else _from_disk(config, only, "read from the disk")
    found.duration_ms = round((time.monotonic() - started) * 1_000, 3)
    return found


def _unconfigured(given: NoSettings) -> Findings:
    """Returns the only possible finding without settings."""
    found = unusable(given.error, given.path)
    fix = None if found.fix is None else clean_text(found.fix)
    evidence = bounded(found.evidence)
    result = replace(found, name="config_file", detail=clean_text(found.detail), fix=fix, evidence=evidence)
    return Findings([result.as_dict()], "the settings are unusable, so nothing else was checked")


def _ask(config: Config, only: Sequence[str]) -> Findings:
    client = NodeClient(locations_of(config))
    waited_s = STATUS_TIMEOUT_S
    try:
        status = client.get("/status", timeout_s=waited_s)
        if not client.is_ours(status):
            return _from_disk(config, only, _NO_NODE)
        waited_s = CHECKS_TIMEOUT_S
        report = client.get("/doctor", timeout_s=waited_s, check=list(only))
    except TimeoutError:
        return _unresponsive(config, only, waited_s)
    except OSError:
        return _from_disk(config, only, _NO_NODE)
    return _from_node(status, report, config, only)


def _from_node(status: Response, report: Response, config: Config, only: Sequence[str]) -> Findings:
    try:
        node = {} if status.is_error else status.document(_STATUS)
        results = [] if report.is_error else report.document([_RESULT])
    except HearthNetError as error:
        return _from_disk(config, only, f"{error.message}: read from the disk")
    pid, program = node.get("pid"), node.get("version", __version__)
    # The node may lack a check of this program if it was started before an update.
    if report.is_error:
        found = _from_disk(config, only, f"the node responded with {report.status}: read from the disk")
        found.pid = pid
        return found
    source = "the node" if pid is None else f"the node, pid {pid}"
    return Findings(results, f"asked {source}", source="node", program=program, pid=pid)


def _unresponsive(config: Config, only: Sequence[str], waited_s: float) -> Findings:
    """Returns the findings from the disk, and one about the node, which runs but does not respond."""
    assert config.observability.data_dir is not None
    nodes = live_nodes(config.observability.data_dir)
    pid, port = nodes[0] if nodes else None, config.transport.port
    if pid is None:
        note = f"no response on port {port} within {waited_s:g} s: read from the disk"
        return _from_disk(config, only, note)
    problem = f"the node (pid {pid}) did not respond within {waited_s:g} s"
    found = _from_disk(config, only, f"{problem}: read from the disk")
    found.pid = pid
    if not only:
        why, fix = explain_silence(config.observability.data_dir, pid, config.transport.host)
        evidence = {"pid": pid, "port": port}
        result = CheckResult(NODE_CHECK, ok=False, detail=f"{problem}: {why}", fix=fix, evidence=evidence)
        found.results.insert(0, result.as_dict())
    return found


def _from_disk(config: Config, only: Sequence[str], note: str) -> Findings:
    return Findings([result.as_dict() for result in doctor.run_all(config, only=only)], note)
