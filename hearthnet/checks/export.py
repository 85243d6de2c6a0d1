"""The check of the export by OTLP: settings that can be meant, and a backend that takes the records."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.results import MAX_NAMES, found, skipped, warned
from hearthnet.config import Config
from hearthnet.database import connect_read_only, store_error
from hearthnet.display import counted
from hearthnet.errors import HearthNetError
from hearthnet.moments import duration
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.otel.export.settings import Settings, read
from hearthnet.observability.otel.export.status import read_status
from hearthnet.observability.store.query.flights import living
from hearthnet.observability.store.query.unsent import Progress, progress
from hearthnet.observability.store.rows import now_us
from hearthnet.observability.telemetry import DATABASE

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["telemetry_export"]

_STALE_US: Final = 150_000_000  # a process that exports updates its status once a minute
_LATE_S: Final = 600.0
_SHOW: Final = "hearthnet telemetry info"
_INSTALL: Final = "pip install 'hearthnet[otlp]'"
_NOUNS: Final = {"traces": "trace", "logs": "log record"}


def telemetry_export(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The OTLP backend takes the records, where one is set: settings, packages, last error, records that wait."""
    directory = config.observability.data_dir or Path()
    try:
        settings = read(config.observability.otlp_endpoint, os.environ)
        come = _progress(directory / DATABASE, is_wanted=settings is not None)
    except HearthNetError as error:
        return found(False, error.message, error.hint or _SHOW)
    if settings is None and not come:
        return skipped("no endpoint is set: telemetry stays on this machine")
    if settings is not None and (missing := _missing(settings)) is not None:
        return found(False, f"nothing is exported: {missing} is not installed", _INSTALL)
    status = read_status(directory)
    is_live = 0 <= now_us() - status.get("updated_us", 0) < _STALE_US  # not by a clock that was ahead
    evidence = _evidence(come, status, settings)
    problems = [*_failures(status)] if is_live else []
    # An endpoint that was set without a restart, say; without one nothing is to be sent.
    is_idle = settings is not None and not is_live and bool(living(directory))
    doubts = [*(settings.doubts if settings is not None else ()), *_delays(come, is_due=is_live or is_idle)]
    if is_idle and any(_is_late(one) for one in come.values()):
        doubts.append("a process is recording, but none exports: restart the node")
    if problems:
        return found(False, "; ".join([*problems, *_waiting(come)][: MAX_NAMES + 1]), _SHOW, **evidence)
    if doubts:
        return warned("; ".join(doubts[:MAX_NAMES]), _SHOW, **evidence)
    if not is_live:
        return found(True, "; ".join(["no process exports at present", *_waiting(come)]), **evidence)
    return found(True, "; ".join([*_waiting(come)]) or "all is sent", **evidence)


def _progress(path: Path, *, is_wanted: bool) -> dict[str, Progress]:
    """Returns how far the export has come; nothing of a store that is not there, or of an older version.

    Args:
        path: of the store.
        is_wanted: whether an endpoint is set; without one a store that cannot be read is the matter of another check.

    Raises:
        StoreError: raised when it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        with closing(connect_read_only(path)) as connection:
            return progress(connection)
    except (HearthNetError, sqlite3.Error) as error:
        if not is_wanted:
            return {}
        raise (store_error(path, error) if isinstance(error, sqlite3.Error) else error) from error


def _missing(settings: Settings) -> str | None:
    """Returns a package that the export needs and that is not installed."""
    needed = ["httpx"]
    if not all(target.is_json for target in settings.targets.values()):
        needed.append("opentelemetry.proto")
    for name in needed:
        try:
            if find_spec(name) is None:
                return name.replace(".", "-")
        except ModuleNotFoundError:  # the package that it is in
            return name.replace(".", "-")
    return None


def _evidence(come: dict[str, Progress], status: dict[str, Any], settings: Settings | None) -> dict[str, Any]:
    return {
        "endpoints": {}
        if settings is None
        else {name: one.url.partition("?")[0] for name, one in settings.targets.items()},
        "progress": {name: one._asdict() for name, one in come.items()},
        "troubles": status.get("troubles", {}),
        "counts": status.get("counts", {}),
    }


def _failures(status: dict[str, Any]) -> Iterator[str]:
    """Yields why nothing is delivered, by signal."""
    if error := status.get("error"):
        yield error
    for signal, trouble in status.get("troubles", {}).items():
        fault = "; the settings are at fault" if trouble["is_misset"] else ""
        yield f"{signal} have not been taken for {_age(trouble['since_us'])}: {trouble['words']}{fault}"


def _is_late(one: Progress) -> bool:
    return one.oldest_us is not None and (now_us() - one.oldest_us) / 1e6 > _LATE_S


def _delays(come: dict[str, Progress], *, is_due: bool) -> Iterator[str]:
    """Yields what was lost unsent, and what has waited for long although a process exports, or should."""
    for signal, one in come.items():
        if one.lost:
            yield f"{counted(one.lost, _NOUNS[signal])} evicted before the backend took them"
        if is_due and one.oldest_us is not None and _is_late(one):
            yield f"the oldest of {counted(one.unsent, _NOUNS[signal])} has waited for {_age(one.oldest_us)}"


def _waiting(come: dict[str, Progress]) -> Iterator[str]:
    for signal, one in come.items():
        if one.unsent and one.oldest_us is not None:
            yield f"{counted(one.unsent, _NOUNS[signal])} to be sent, the oldest {_age(one.oldest_us)} old"


def _age(us: int) -> str:
    return duration(max(0.0, (now_us() - us) / 1e6))
