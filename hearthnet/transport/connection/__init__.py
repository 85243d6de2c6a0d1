"""TCP connections of the bus port: limits, HTTP/1.1 parsing."""
