-- How a run that was killed felt, taken over from its black box by the start after it; none of a run that ended cleanly.
ALTER TABLE runs ADD COLUMN last_seen_us INTEGER;  -- its last sign of life, of whatever kind
ALTER TABLE runs ADD COLUMN vitals       TEXT;     -- [{ts_us, rss_bytes, memory_left_bytes, open_files, disk_free_bytes,
                                                   --   load, loop_lag_s}], oldest first; null: not measured
