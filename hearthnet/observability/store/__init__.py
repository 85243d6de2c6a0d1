"""The durable store: rows, rings, the writer and the reader. All SQL on telemetry.db is in this folder."""
