-- What a run cost the disk, so that the wear on an SD card can be told: brought up to date now and then, and at its end.
ALTER TABLE runs ADD COLUMN commits       INTEGER;  -- transactions of the telemetry store
ALTER TABLE runs ADD COLUMN written_bytes INTEGER;  -- of database and WAL, handed to the disk; NULL: not measured
