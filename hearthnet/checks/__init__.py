"""The list of the doctor's checks, and those that other packages add.

Another package adds a check by an entry point in the group `hearthnet.checks`: its name is the check's, its object the
function. It is imported when the check runs, in the check's own thread: if it is broken, that is the check's finding.

Each check measures instead of assuming, reports what it measured, and offers a fix that can be pasted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Final

from hearthnet.checks import (
    clock,
    export,
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
from hearthnet.checks.results import found, skipped
from hearthnet.errors import missing_extra
from hearthnet.observability.doctor import CheckResult, register

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from hearthnet.bus.bus import CapabilityBus
    from hearthnet.config import Config

    Check = Callable[[Config, CapabilityBus | None], CheckResult]

__all__ = ["ALL", "GROUP", "by_name", "register_all"]

GROUP: Final = "hearthnet.checks"

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
    export.telemetry_export,
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


def by_name() -> dict[str, Check]:
    """Returns every check by its name, in the order of the report: ours, then those of other packages."""
    known = {check.__name__: check for check in ALL}
    try:
        points = _entry_points()
    except Exception as error:  # the metadata of some package is damaged  # noqa: BLE001
        return known | {GROUP: _unread(f"{type(error).__name__}: {error}")}
    for point in points:
        owner = "another package" if point.dist is None else point.dist.name
        if point.name in known:
            known[f"{owner}.{point.name}"] = _taken(point.name, owner)
        else:
            known[point.name] = _unless_missing(_imported(point, owner))
    return known


def _entry_points() -> list[EntryPoint]:
    from importlib.metadata import entry_points  # late: it reads the metadata of every installed package

    return list(entry_points(group=GROUP))


def _unread(reason: str) -> Check:
    def run(_: Config, __: CapabilityBus | None) -> CheckResult:
        return found(False, f"the checks of other packages cannot be listed: {reason}", "pip check")

    run.__doc__ = "The checks of other packages can be listed."
    return run


def _imported(point: EntryPoint, owner: str) -> Check:
    def run(config: Config, bus: CapabilityBus | None) -> CheckResult:
        check: Check = point.load()
        return check(config, bus)

    run.__doc__ = f"A check of {owner}: {point.value}."
    return run


def _taken(name: str, owner: str) -> Check:
    def run(_: Config, __: CapabilityBus | None) -> CheckResult:
        detail = f"{owner} adds a check named {name}, which there is already: it is not run"
        return found(False, detail, f"pip show --files {owner}; rename its entry point in the group {GROUP}")

    run.__doc__ = f"A check of {owner} whose name is taken."
    return run


def register_all() -> None:
    """Registers every check with the doctor."""
    for name, check in by_name().items():
        register(name, check)
