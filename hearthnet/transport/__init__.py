"""The node's HTTP server: signed calls in, answers, metrics and traces out."""
