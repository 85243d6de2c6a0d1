"""`hearthnet trace`."""
