-- How a run felt before it was killed: from its black box, taken over by the start after it.
ALTER TABLE runs ADD COLUMN last_seen_us INTEGER;  -- its last sign of life, of whatever kind
ALTER TABLE runs ADD COLUMN vitals       TEXT;     -- [{ts_us, rss_bytes, memory_left_bytes, open_files, disk_free_bytes,
                                                   --   load, loop_lag_s}], oldest first; null: not measured
