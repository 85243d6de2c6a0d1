"""Behind `tracing`: traces, spans, and how they follow the work."""
