"""OpenTelemetry's API over our traces: its provider, its spans, and one context for both sides."""

from __future__ import annotations

from hearthnet.observability.otel.bridge.provider import Tracer, TracerProvider, install

__all__ = ["Tracer", "TracerProvider", "install"]
