"""The machinery of self-diagnostics: runs checks side by side, each isolated and with a deadline.

It knows no subject. A check is a function of the configuration and the bus; it lives beside what it looks at and is
registered by name (`hearthnet/checks` lists them all). One that raises becomes a failed finding with its cause, one
that hangs is reported as such in time; neither harms the others.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from hearthnet.observability.record import bounded, clean_text

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus
    from hearthnet.config import Config

    Check = Callable[[Config, CapabilityBus | None], "CheckResult"]

__all__ = ["CheckResult", "names", "register", "run_all", "run_one"]

DEADLINE_S: Final = 5.0  # more than any healthy check takes on a slow SD card; what a person waits for without worry


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found.

    Attributes:
        name: the check's.
        ok: false only where something is wrong and needs its fix.
        detail: one line for people, with what was measured.
        fix: what to do, as a command where there is one.
        status: `pass`, `warn`, `fail` or `skip`; by default `pass` or `fail` as `ok` has it.
        evidence: what was measured, as data.
        duration_ms: how long the check took.
    """

    name: str
    ok: bool
    detail: str
    fix: str | None = None
    status: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    duration_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.status:
            object.__setattr__(self, "status", "pass" if self.ok else "fail")

    def as_dict(self) -> dict[str, Any]:
        """Returns the result with the keys of the JSON report."""
        return {
            "name": self.name,
            "status": self.status,
            "ok": self.ok,
            "detail": self.detail,
            "fix": self.fix,
            "evidence": dict(self.evidence),
            "duration_ms": round(self.duration_ms, 3),
        }


_checks: dict[str, Check] = {}


def register(name: str, check: Check) -> None:
    """Adds a check, or replaces the one of that name."""
    _checks[name] = check


def names() -> list[str]:
    """Returns the names of all checks, in the order in which they are reported."""
    return list(_checks)


def run_one(name: str, config: Config, bus: CapabilityBus | None = None, deadline_s: float = DEADLINE_S) -> CheckResult:
    """Runs one check.

    Raises:
        KeyError: raised when no check has that name.
    """
    return _run({name: _checks[name]}, config, bus, deadline_s)[0]


def run_all(
    config: Config,
    bus: CapabilityBus | None = None,
    *,
    only: Collection[str] = (),
    deadline_s: float = DEADLINE_S,
) -> list[CheckResult]:
    """Runs every check, or those in `only`, within about `deadline_s` seconds.

    Returns:
        The results in the order of registration.

    Raises:
        KeyError: raised when no check has a name that is in `only`.
    """
    for name in only:
        if name not in _checks:
            raise KeyError(name)
    return _run({name: _checks[name] for name in _checks if not only or name in only}, config, bus, deadline_s)


def _run(
    checks: Mapping[str, Check], config: Config, bus: CapabilityBus | None, deadline_s: float
) -> list[CheckResult]:
    finished: queue.SimpleQueue[CheckResult] = queue.SimpleQueue()
    for name, check in checks.items():
        # Daemon threads: a check that hangs for ever must not keep the doctor from leaving.
        threading.Thread(
            target=lambda name=name, check=check: finished.put(_guarded(name, check, config, bus)),
            name=f"doctor-{name}",
            daemon=True,
        ).start()
    results: dict[str, CheckResult] = {}
    ends_at = monotonic() + deadline_s
    while len(results) < len(checks):
        try:
            result = finished.get(timeout=max(0.0, ends_at - monotonic()))
        except queue.Empty:
            break
        results[result.name] = result
    return [results.get(name) or _hung(name, deadline_s) for name in checks]


def _guarded(name: str, check: Check, config: Config, bus: CapabilityBus | None) -> CheckResult:
    started = monotonic()
    try:
        result = check(config, bus)
    except Exception as error:  # the border to each check: its failure is a finding  # noqa: BLE001
        result = CheckResult(
            name, ok=False, detail=f"the check itself failed: {type(error).__name__}: {clean_text(error, 200)}"
        )
    return replace(
        result,
        name=name,
        # Checks tell what they found: a URL with a password in it, a library's message.
        detail=clean_text(result.detail),
        fix=None if result.fix is None else clean_text(result.fix),
        evidence=bounded(result.evidence),
        duration_ms=(monotonic() - started) * 1_000,
    )


def _hung(name: str, deadline_s: float) -> CheckResult:
    return CheckResult(name, ok=False, detail=f"no answer within {deadline_s:g} s", duration_ms=deadline_s * 1_000)
