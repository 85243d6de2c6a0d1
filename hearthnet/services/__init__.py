"""Capabilities that a node brings along."""
