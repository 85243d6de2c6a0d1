"""Who a node is: its keys, canonical JSON to sign, and the community's manifest."""
