"""The capability bus: what a node offers, and the one way in which it is called."""
