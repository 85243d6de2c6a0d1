"""OpenTelemetry: `export/` sends traces and log records by OTLP, `bridge/` has its API record into our traces."""

from __future__ import annotations

from hearthnet.errors import missing_extra

__all__ = ["install"]


def install() -> bool:
    """Makes OpenTelemetry's API record into our traces: see `bridge.install`.

    Raises:
        MissingExtraError: raised when `opentelemetry-api` is not installed.
    """
    try:
        from hearthnet.observability.otel import bridge
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
    return bridge.install()
