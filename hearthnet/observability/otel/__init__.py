"""Traces in the format of OpenTelemetry."""
