"""Checks of what the node offers, and of the backends behind it."""

from __future__ import annotations

from typing import Final

import httpx

from hearthnet.bus.bus import CapabilityBus
from hearthnet.checks.finding import found, skipped
from hearthnet.config import Config
from hearthnet.observability.doctor import CheckResult

__all__ = ["at_least_one_capability", "llm_backend_reachable"]

_ASK_TIMEOUT_S: Final = 2.0


def at_least_one_capability(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The bus has one capability or more."""
    if bus is None:
        return skipped("the node is not running")
    count = len(bus.registry)
    return found(count > 0, f"{count} capability(ies) offered", "configure a backend under [llm]", count=count)


def llm_backend_reachable(config: Config, _: CapabilityBus | None) -> CheckResult:
    """One LLM backend or more responds."""
    backends = config.llm.backends
    if not backends:
        return skipped("no backend is configured")
    answers = {backend.url: _answers(backend.url) for backend in backends}
    up = sum(answers.values())
    detail = f"{up} of {len(backends)} backend(s) answer"
    return found(up > 0, detail, "start one, or correct its url under [[llm.backends]]", answers=answers)


def _answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=_ASK_TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True
