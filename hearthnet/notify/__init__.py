"""What `hearthnet doctor --notify` tells about changes, and by which channels."""
