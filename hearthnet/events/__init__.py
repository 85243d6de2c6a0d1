"""The community's signed event log."""
