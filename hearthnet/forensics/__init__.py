"""Forensics: reads a run's files and finds how it ended. Standard library only, so it runs on any bare Python."""
