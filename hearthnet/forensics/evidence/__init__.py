"""Readers of a node's files: database, black boxes, JSON logs."""
