"""`hearthnet telemetry`."""
