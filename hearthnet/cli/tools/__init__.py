"""`hearthnet tools` and `hearthnet completion`: files for other programs, manual pages, and what a shell completes."""
