"""Queries of the store by people: ad-hoc SQL, its state, its statistics."""
