"""What `hearthnet doctor --notify` tells of what has changed, and by which channels."""
