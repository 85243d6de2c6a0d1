"""A node as a service of systemd: the protocols it speaks, the units, how they are installed."""
