"""Decides what must not be recorded: by key name, by shape, by known value."""
