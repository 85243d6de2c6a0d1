"""`hearthnet log`."""
