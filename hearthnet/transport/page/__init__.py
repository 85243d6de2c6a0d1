"""The page at `/`: who may open it, its files, its JSON routes over SQL, its stream of events."""
