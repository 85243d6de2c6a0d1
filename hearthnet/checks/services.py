"""Checks of the offered capabilities and of the LLM backends."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.results import MAX_NAMES, format_names, found, skipped, warned
from hearthnet.config import Config
from hearthnet.constants import HEALTH_MIN_CALLS
from hearthnet.display import counted
from hearthnet.observability.doctor import CheckResult

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus
    from hearthnet.bus.capability import Entry
    from hearthnet.checks.probes.llm_backends import BackendStatus

__all__ = ["at_least_one_capability", "llm_backend_reachable"]

MIN_SUCCESS_RATE: Final = 0.8  # as `recent_error_rate` allows for all calls together
_FIXES: Final = {
    "dead": "start it, or correct its url under [[llm.backends]]",
    "not_ready": "see the backend's own log: it responds, but is not ready",
    "no_key": "set the variable named by api_key_env in the node's environment",
    "key": "set the variable named by api_key_env to a key that the backend accepts",
    "no_model": "load the model there, or correct model under [[llm.backends]]",
}
# For a backend on this machine: the command from its documentation.
_STARTS: Final = {"ollama": "ollama serve", "lmstudio": "lms server start"}


def at_least_one_capability(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The bus offers at least one capability; those that often fail are named."""
    if bus is None:
        return skipped("the node is not running")
    entries = list(bus.registry)
    if not entries:
        return found(False, "no capability is offered", "configure a backend under [[llm.backends]]", count=0)
    quarantined = [_versioned_name(entry) for entry in entries if entry.health.is_quarantined]
    unhealthy = [_versioned_name(entry) for entry in entries if _is_unhealthy(entry)]
    evidence: dict[str, Any] = {"count": len(entries), "quarantined": quarantined, "unhealthy": unhealthy}
    detail = f"{counted(len(entries), 'capability', 'capabilities')} offered"
    if not quarantined and not unhealthy:
        return found(True, detail, **evidence)
    for names, state in ((quarantined, "quarantined"), (unhealthy, "failing often")):
        detail += f"; {state}: {format_names(names)}" if names else ""
    name = (quarantined or unhealthy)[0].partition("@")[0]
    return warned(detail, f"hearthnet trace recent 20 --failed --capability {name}", **evidence)


def _is_unhealthy(entry: Entry) -> bool:
    rate = entry.health.success_rate
    is_known = rate is not None and entry.health.calls >= HEALTH_MIN_CALLS
    return is_known and not entry.health.is_quarantined and (rate or 0.0) < MIN_SUCCESS_RATE


def _versioned_name(entry: Entry) -> str:
    return f"{entry.descriptor.name}@{entry.descriptor.version_text}"


def llm_backend_reachable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """At least one LLM backend responds and has its configured model."""
    if not config.llm.backends:
        return skipped("no backend is configured")

    from hearthnet.checks.probes.llm_backends import ask_backends  # late: it needs httpx

    backends = ask_backends(config.llm.backends)
    evidence: dict[str, Any] = {
        "states": Counter(backend.state for backend in backends),
        "backends": [asdict(backend) for backend in backends],
    }
    up = [backend for backend in backends if backend.is_up]
    failing = [backend for backend in backends if backend.state not in ("ok", "offline")]
    detail = f"{len(up)} of {counted(len(backends), 'backend')} available"
    if failing:
        fix = _fix(failing)
        detail = f"{detail}; {'; '.join(map(_format_status, failing[:MAX_NAMES]))}"
        return warned(detail, fix, **evidence) if up else found(False, detail, fix, **evidence)
    if not up:
        return skipped(f"offline: {format_names([_format_status(backend) for backend in backends])}", **evidence)
    shown = [*up, *(backend for backend in backends if not backend.is_up)][:MAX_NAMES]
    return found(True, f"{detail}; {'; '.join(map(_format_status, shown))}", **evidence)


def _fix(failing: Sequence[BackendStatus]) -> str:
    """Returns the fix for the worst backend: a command if there is one for its kind."""
    worst = min(failing, key=lambda backend: [*_FIXES].index(backend.state))
    if worst.state == "dead" and worst.backend in _STARTS and worst.place.startswith(("localhost", "127.", "[::1]")):
        return _STARTS[worst.backend]
    if worst.state == "no_model" and worst.backend == "ollama":
        return f"ollama pull {shlex.quote(worst.model)}"
    return _FIXES[worst.state]


def _format_status(backend: BackendStatus) -> str:
    name = f"{backend.backend} at {backend.place or 'an invalid url'}"
    if backend.state == "ok":
        took = f" in {backend.latency_ms:.0f} ms" if backend.latency_ms is not None else ""
        return f"{name}{took}{f', {backend.detail}' if backend.detail else ''}"
    problems = {
        "dead": f"does not respond ({backend.detail})",
        "offline": f"cannot be reached ({backend.detail})",
        "no_model": f"does not have {backend.model!r}: {backend.detail}",
        "not_ready": f"is not ready: {backend.detail}",
    }
    return f"{name} {problems[backend.state]}" if backend.state in problems else f"{name}: {backend.detail}"
