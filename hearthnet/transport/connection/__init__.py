"""TCP connections of the bus port: accepting, limits, HTTP/1.1 parsing."""
