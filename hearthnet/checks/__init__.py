"""The list of the doctor's checks.

Each check measures instead of assuming, reports what it measured, and offers a fix that can be pasted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Final

from hearthnet.checks import (
    clock,
    exposure,
    identity,
    machine,
    modes,
    network,
    runs,
    services,
    settings,
    store,
    telemetry,
)
from hearthnet.checks.results import skipped
from hearthnet.extras import missing_extra
from hearthnet.observability.doctor import CheckResult, register

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus
    from hearthnet.config import Config

    Check = Callable[[Config, CapabilityBus | None], CheckResult]

__all__ = ["ALL", "register_all"]

_CHECKS: Final[tuple[Check, ...]] = (
    identity.keys_present,
    identity.keys_loadable,
    identity.community_present,
    identity.event_log_writable,
    network.mdns_socket,
    network.udp_multicast,
    network.transport_port,
    services.at_least_one_capability,
    machine.disk_space,
    clock.clock_sanity,
    services.llm_backend_reachable,
    telemetry.recent_error_rate,
    store.telemetry_store,
    telemetry.orphan_spans,
    runs.last_run,
    runs.restart_loop,
    machine.log_directory,
    modes.file_modes,
    settings.config_file,
    exposure.exposure,
    exposure.connection_limit,
    exposure.members_refused,
)


def _unless_missing(check: Check) -> Check:
    """Wraps a check so that it is skipped if a package of `hearthnet[node]` is not installed."""

    @wraps(check)
    def run(config: Config, bus: CapabilityBus | None) -> CheckResult:
        try:
            return check(config, bus)
        except ModuleNotFoundError as error:
            missing = missing_extra(error)
            if missing is None:
                raise
            return skipped(str(missing))

    return run


ALL: Final = tuple(map(_unless_missing, _CHECKS))


def register_all() -> None:
    """Registers every check with the doctor under its function's name."""
    for check in ALL:
        register(check.__name__, check)
