"""The parts of `tracing`: traces, spans, and how they follow the work."""
