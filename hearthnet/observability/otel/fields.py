"""Names of extras for what OpenTelemetry's API has of a span and ours has not.

The bridge notes it, the export reads it. They begin with `otel.`, which its conventions reserve.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EVENTS", "KIND", "LINKS", "OWN", "PARENT_IS_REMOTE", "SCOPE", "STATUS", "dropped"]

OWN: Final = "otel."
SCOPE: Final = "otel.scope.name"
KIND: Final = "otel.kind"
EVENTS: Final = "otel.events"
LINKS: Final = "otel.links"
STATUS: Final = "otel.status_code"
PARENT_IS_REMOTE: Final = "otel.parent_is_remote"


def dropped(what: str) -> str:
    """Returns the name of the number of attributes, events or links that were dropped."""
    return f"{OWN}dropped_{what}_count"
