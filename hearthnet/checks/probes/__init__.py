"""Probes sockets, files and processes for the checks."""
