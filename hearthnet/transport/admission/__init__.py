"""Admission control: which requests are served, and how many at once."""
