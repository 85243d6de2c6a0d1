"""Checks of what the node offers, and of the backends behind it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.results import MAX_NAMES, few, found, skipped, warned
from hearthnet.config import Config
from hearthnet.constants import HEALTH_MIN_CALLS
from hearthnet.observability.doctor import CheckResult

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus
    from hearthnet.bus.registry import Entry
    from hearthnet.checks.probes.llm_backends import Answer

__all__ = ["at_least_one_capability", "llm_backend_reachable"]

MIN_SUCCESS_RATE: Final = 0.8  # what `recent_error_rate` allows of all calls together
_FIXES: Final = {
    "dead": "start it, or correct its url under [[llm.backends]]",
    "not_ready": "see its own log: it answers, and not as a backend that is ready",
    "no_key": "set the variable that api_key_env names where the node starts",
    "key": "put a key that the backend accepts into the variable that api_key_env names",
    "no_model": "load the model there, or correct model under [[llm.backends]]",
}
# For a backend on this machine, as its own documentation starts it.
_STARTS: Final = {"ollama": "ollama serve", "lmstudio": "lms server start"}


def at_least_one_capability(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The bus has one capability or more; those that mostly fail are named."""
    if bus is None:
        return skipped("the node is not running")
    entries = list(bus.registry)
    if not entries:
        return found(False, "no capability is offered", "configure a backend under [[llm.backends]]", count=0)
    quarantined = [_named(entry) for entry in entries if entry.health.is_quarantined]
    unhealthy = [_named(entry) for entry in entries if _is_unhealthy(entry)]
    evidence: dict[str, Any] = {"count": len(entries), "quarantined": quarantined, "unhealthy": unhealthy}
    detail = f"{len(entries)} capability(ies) offered"
    if not quarantined and not unhealthy:
        return found(True, detail, **evidence)
    for names, what in ((quarantined, "quarantined"), (unhealthy, "failing often")):
        detail += f"; {what}: {few(names)}" if names else ""
    name = (quarantined or unhealthy)[0].partition("@")[0]
    return warned(detail, f"hearthnet trace recent 20 --failed --capability {name}", **evidence)


def _is_unhealthy(entry: Entry) -> bool:
    rate = entry.health.success_rate
    is_known = rate is not None and entry.health.calls >= HEALTH_MIN_CALLS
    return is_known and not entry.health.is_quarantined and (rate or 0.0) < MIN_SUCCESS_RATE


def _named(entry: Entry) -> str:
    return f"{entry.descriptor.name}@{entry.descriptor.version_text}"


def llm_backend_reachable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """One LLM backend or more responds, and has the model that is configured for it."""
    if not config.llm.backends:
        return skipped("no backend is configured")

    from hearthnet.checks.probes.llm_backends import ask_backends  # late: it needs httpx

    answers = ask_backends(config.llm.backends)
    evidence: dict[str, Any] = {
        "states": Counter(answer.state for answer in answers),
        "backends": [asdict(answer) for answer in answers],
    }
    up = [answer for answer in answers if answer.is_up]
    troubled = [answer for answer in answers if answer.state not in ("ok", "offline")]
    detail = f"{len(up)} of {len(answers)} backend(s) answer"
    if troubled:
        fix = _fix(troubled)
        detail = f"{detail}; {'; '.join(map(_told, troubled[:MAX_NAMES]))}"
        return warned(detail, fix, **evidence) if up else found(False, detail, fix, **evidence)
    if not up:
        return skipped(f"offline: {few([_told(answer) for answer in answers])}", **evidence)
    detail = f"{detail}; {'; '.join(map(_told, [*up, *(item for item in answers if not item.is_up)][:MAX_NAMES]))}"
    return found(True, detail, **evidence)


def _fix(troubled: Sequence[Answer]) -> str:
    """Returns what to do about the one that is worst off; a command, where there is one for its kind."""
    worst = min(troubled, key=lambda answer: [*_FIXES].index(answer.state))
    if worst.state == "dead" and worst.backend in _STARTS and worst.place.startswith(("localhost", "127.", "[::1]")):
        return _STARTS[worst.backend]
    if worst.state == "no_model" and worst.backend == "ollama":
        return f"ollama pull {shlex.quote(worst.model)}"
    return _FIXES[worst.state]


def _told(answer: Answer) -> str:
    told = f"{answer.backend} at {answer.place or 'a url that is none'}"
    if answer.state == "ok":
        took = f" in {answer.latency_ms:.0f} ms" if answer.latency_ms is not None else ""
        return f"{told}{took}{f', {answer.detail}' if answer.detail else ''}"
    what = {
        "dead": f"does not answer ({answer.detail})",
        "offline": f"cannot be reached ({answer.detail})",
        "no_model": f"has no {answer.model!r}: {answer.detail}",
        "not_ready": f"is not ready: {answer.detail}",
    }
    return f"{told} {what[answer.state]}" if answer.state in what else f"{told}: {answer.detail}"
