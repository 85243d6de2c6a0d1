"""OpenTelemetry: traces and log records out, by OTLP."""
