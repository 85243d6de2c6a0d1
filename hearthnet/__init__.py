"""A HearthNet node: capabilities on a bus, and the observability layer that records what they did.

A program that records what it does takes the names below from here; each is imported when it is first used.

    from hearthnet import fields, get_logger, span, telemetry, trace
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hearthnet.observability import metrics, telemetry
    from hearthnet.observability.logging import get_logger
    from hearthnet.observability.logs.fields import fields
    from hearthnet.observability.tracing import current_trace, get_recent, span, trace

__all__ = ["current_trace", "fields", "get_logger", "get_recent", "metrics", "span", "telemetry", "trace"]

__version__ = "0.2.0"

_PLACES = {
    "current_trace": "tracing",
    "fields": "logs.fields",
    "get_logger": "logging",
    "get_recent": "tracing",
    "span": "tracing",
    "trace": "tracing",
}


def __getattr__(name: str) -> Any:
    """Imports one of the names above.

    Raises:
        AttributeError: raised for a name that is none of the package's.
    """
    if name in ("metrics", "telemetry"):
        found: Any = import_module(f"hearthnet.observability.{name}")
    elif name in _PLACES:
        found = getattr(import_module(f"hearthnet.observability.{_PLACES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Returns the names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
