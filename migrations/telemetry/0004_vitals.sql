-- Process health before a run was killed: recovered from its black box by the next start.
ALTER TABLE runs ADD COLUMN last_seen_us INTEGER;  -- its last sign of life, of whatever kind
ALTER TABLE runs ADD COLUMN vitals       TEXT;     -- [{ts_us, rss_bytes, memory_left_bytes, open_files, disk_free_bytes,
                                                   --   load, loop_lag_s}], oldest first; null: not measured
