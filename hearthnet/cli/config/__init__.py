"""`hearthnet config`."""
