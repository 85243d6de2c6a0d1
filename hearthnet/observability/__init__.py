"""Logging, metrics, tracing and self-diagnostics for every module of a node that does I/O.

Importing this is light: no database driver, web framework or metrics library comes with it. An instrument is imported
when its name is first used, so that a reader of records or of log files pays for none of them.

The instruments are on a lower floor than the store and the checks. The functions at the end call these for them, and
import them only then.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hearthnet.config import ObservabilityConfig
    from hearthnet.observability import doctor, metrics
    from hearthnet.observability import tracing as trace
    from hearthnet.observability.doctor import Check
    from hearthnet.observability.logging import get_logger
    from hearthnet.observability.logs.console import Mode
    from hearthnet.observability.records.stored import TraceRecord

__all__ = ["doctor", "get_logger", "metrics", "trace"]


def __getattr__(name: str) -> Any:
    """Imports an instrument by the name that the package gives it.

    Raises:
        AttributeError: raised for a name that is none of the package's.
    """
    if name in ("doctor", "metrics"):
        return import_module(f"{__name__}.{name}")
    if name == "trace":
        found: Any = import_module(f"{__name__}.tracing")
    elif name == "get_logger":
        found = import_module(f"{__name__}.logging").get_logger
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def read_recent(n: int) -> list[TraceRecord]:
    """Returns the newest `n` traces in SQL and in memory, for a process that has no store open."""
    from hearthnet.observability.store import recent

    return recent.read_recent(n)


def open_store(config: ObservabilityConfig, console: Mode) -> None:
    """Opens telemetry until the process ends: `logging.configure`."""
    from hearthnet.observability import telemetry

    telemetry.keep_open(config, console=console)


def standard_checks() -> dict[str, Check]:
    """Returns the doctor's standard checks and those of other packages by name, in the order of the report."""
    from hearthnet import checks

    return checks.by_name()
