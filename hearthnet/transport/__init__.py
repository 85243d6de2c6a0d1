"""The HTTP server of a node: verifies and serves signed calls, and exposes metrics and traces."""
