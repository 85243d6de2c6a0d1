"""Identity of a node: its keys, canonical JSON for signatures, and the community's manifest."""
