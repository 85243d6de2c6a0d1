"""`hearthnet service`."""
