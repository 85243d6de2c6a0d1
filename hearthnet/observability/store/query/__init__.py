"""Reads the store for people: ad-hoc SQL, its state, its statistics."""
