"""Probes of sockets, locks, processes and backends, used by the checks."""
