"""`hearthnet doctor`."""
