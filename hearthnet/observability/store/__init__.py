"""The durable store: rows, rings, the writer and the reader. All SQL of telemetry is in this folder."""
