"""Erases records permanently."""
