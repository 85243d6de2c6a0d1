"""Reads what a dead node left: database, boxes, JSON lines."""
