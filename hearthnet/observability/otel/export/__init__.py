"""Export of the store by OTLP: rows to requests, their way to a backend, and the thread that does it."""
