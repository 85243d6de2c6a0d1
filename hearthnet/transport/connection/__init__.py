"""Connections and the bytes on them: accepting, bounds, HTTP/1.1."""
